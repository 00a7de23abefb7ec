"""The order in which a run takes its prompts: a pure function of the position."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from configs.prompts import load_prompts as load_prompts  # read by all who have prompts; ordered by the run alone


class PromptCursor:
    """An endless sequence of prompts: each epoch goes once through all of them, in an order of its own.

    Position p is prompt `permutation(seed, p // N)[p % N]`; nothing is remembered, so a resume needs only p.
    """

    def __init__(self, prompts: Sequence[str], seed: int) -> None:
        if not prompts:
            raise ValueError("no prompts")
        self._prompts = tuple(prompts)
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_permutation, len(self._prompts), seed))

    def take(self, start: int, n: int) -> list[str]:
        """The prompts at positions start .. start + n - 1."""
        size = len(self._prompts)
        return [self._prompts[self._order(position // size)[position % size]] for position in range(start, start + n)]


def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
