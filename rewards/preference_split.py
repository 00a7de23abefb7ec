"""Which votes a preference model learns from, is stopped by, and is judged on.

A vote's part follows from a hash of its prompt (or of its listener), not from its place in a table. So a prompt that is
held out from one version is held out from every later one, however the data grows, and two versions can be compared
on votes that neither has learnt from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from rewards.preference_pairs import PairSet

Part = Literal["train", "valid", "held_out"]
SPLITS = ("prompt", "listener")
HALVES = ("", "first", "second")


def split_of(pairs: PairSet, part: Part, by: str = "prompt", held_out: float = 0.1, valid: float = 0.05) -> np.ndarray:
    """[P] bool: the votes of `part`. held_out and valid are shares of the prompts (or listeners)."""
    place = _places(_keys(pairs, by), salt=by)
    if part == "held_out":
        return place < held_out
    if part == "valid":
        return (place >= held_out) & (place < held_out + valid)
    return place >= held_out + valid


def held_out_prompts(prompts: Sequence[str], held_out: float = 0.1) -> list[str]:
    """Those of `prompts` whose votes are held out from every version that leaves out such a share."""
    places = _places([_prompt_key(prompt) for prompt in prompts], salt="prompt")
    return [prompt for prompt, place in zip(prompts, places, strict=True) if place < held_out]


def half_of(pairs: PairSet, half: str) -> np.ndarray:
    """[P] bool: votes of one half of the listeners; of all for "". A model of the other half guards this one's."""
    if not half:
        return np.ones(len(pairs), dtype=bool)
    first = _places(pairs.listeners, salt="half") < 0.5
    return first if half == "first" else ~first


def _keys(pairs: PairSet, by: str) -> Iterable[str]:
    if by == "listener":
        return pairs.listeners
    return [_prompt_key(prompt) for prompt in pairs.prompts]


def _prompt_key(prompt: str) -> str:
    """The same for two spellings of a prompt."""
    return " ".join(prompt.casefold().split())


def _places(keys: Iterable[str], salt: str) -> np.ndarray:
    """Each key's fixed place in [0, 1)."""
    known: dict[str, float] = {}
    for key in keys:
        if key not in known:
            digest = hashlib.sha256(f"{salt}\x1f{key}".encode("utf-8", errors="replace")).digest()
            known[key] = int.from_bytes(digest[:8], "big") / 2**64
    return np.array([known[key] for key in keys])
