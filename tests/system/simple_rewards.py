"""Rewards for tests of whole runs: they read the codes or the log-mel themselves, so nothing has to be trained."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from rewards.port import ClipBatch


class LowTokens:
    """Share of tokens in the lower half of their codebook: what a policy can learn in a few steps."""

    version = "low-tokens-1"
    needs = frozenset({"codes"})

    def __init__(self, entries: int = 32) -> None:
        self._entries = entries

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.codes is not None
        return (clips.codes < self._entries // 2).mean(axis=(1, 2)).astype(np.float32)


class HighTokens(LowTokens):
    """What a policy that is paid for LowTokens loses."""

    def score(self, clips: ClipBatch) -> np.ndarray:
        return 1.0 - super().score(clips)


class Brightness:
    """Mean log-mel of the upper bands minus the lower: keeps the codec in the loop."""

    version = "brightness-1"
    needs = frozenset({"log_mel"})

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None
        return (clips.log_mel[:, 32:].mean(axis=(1, 2)) - clips.log_mel[:, :32].mean(axis=(1, 2))).astype(np.float32)


class Faulty(LowTokens):
    """LowTokens that goes wrong for clips whose first token is below `below`: raises, hangs or returns NaN.

    mark: a file that is made once, before the first fault.
    """

    version = "faulty-1"

    def __init__(self, entries: int = 32, how: str = "raise", below: int = 2, mark: str = "") -> None:
        super().__init__(entries)
        self._how, self._below, self._mark = how, below, mark

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.codes is not None
        bad = clips.codes[:, 0, 0] < self._below
        scores = super().score(clips)
        if not bad.any():
            return scores
        if self._mark:
            Path(self._mark).touch()
        if self._how == "raise":
            raise ValueError("this clip is not to my taste")
        if self._how == "hang":
            time.sleep(3600)
        return np.where(bad, np.nan, scores)


class KillsItself(LowTokens):
    """Kills its own process (as kill -9 would) the first time it scores after `mark` has appeared."""

    def __init__(self, entries: int = 32, mark: str = "") -> None:
        super().__init__(entries)
        self._mark = Path(mark)

    def score(self, clips: ClipBatch) -> np.ndarray:
        if self._mark.exists():
            self._mark.unlink()
            os.kill(os.getpid(), 9)
        return super().score(clips)


class Naps(LowTokens):
    """Sleeps `seconds` the first time it scores after `mark` has appeared, and takes the mark away before."""

    def __init__(self, entries: int = 32, mark: str = "", seconds: float = 1.0) -> None:
        super().__init__(entries)
        self._mark, self._seconds = Path(mark), seconds

    def score(self, clips: ClipBatch) -> np.ndarray:
        if self._mark.exists():
            self._mark.unlink()
            time.sleep(self._seconds)
        return super().score(clips)
