"""A reward that fails while a file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rewards.port import ClipBatch


class Faulty:
    """Likes every clip alike, or, while the file `flag` exists, cannot score every second one."""

    version = "faulty-1"
    needs = frozenset({"codes"})

    def __init__(self, flag: str) -> None:
        self._flag = Path(flag)

    def score(self, clips: ClipBatch) -> np.ndarray:
        scores = np.zeros(len(clips), np.float32)
        if self._flag.exists():
            scores[::2] = np.nan
        return scores
