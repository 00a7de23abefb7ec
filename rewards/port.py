"""What every reward model and every held-out judge offers.

A reward of your own is one class with these members and one line of config (docs/adding-a-reward.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np

ClipView = Literal["log_mel", "pcm", "codes"]
ScoreStatus = Literal["ok", "error", "timeout", "non_finite"]


@dataclass(frozen=True)
class ClipBatch:
    """B clips of one length, in the views that the scorers of the run asked for (`RewardModel.needs`).

    log_mel [B, 64, F] float32 (codec.log_mel), pcm [B, C, N] float32 in [-1, 1] at `sample_rate_hz`,
    codes [B, K, T] uint16 as the policy sampled them. Arrays may be read-only views of shared memory.
    """

    prompts: tuple[str, ...]
    sample_rate_hz: int
    log_mel: np.ndarray | None = None
    pcm: np.ndarray | None = None
    codes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: np.ndarray | list[int]) -> ClipBatch:
        """The clips at `rows`, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        pick = {
            name: None if a is None else a[index]
            for name, a in vars(self).items()
            if name in ("log_mel", "pcm", "codes")
        }
        return ClipBatch(tuple(self.prompts[i] for i in index), self.sample_rate_hz, **pick)


@runtime_checkable
class RewardModel(Protocol):
    """Scores clips one number each; higher is better.

    `name` is the NAME of `rewards.NAME.*` in the config; `version` a short content hash of the weights;
    `needs` the views that `score` reads; `shift` and `scale` bring raw scores to comparable size:
    normalised = (raw - shift) / scale. For the embedded models they are the mean and the between-clip standard
    deviation of the base policy's clips, measured once when the model was built and stored in its config.
    """

    name: str
    version: str
    needs: frozenset[ClipView]
    shift: float
    scale: float

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 raw scores; NaN where the clip cannot be scored (counted as missing, never as zero)."""
        ...


@dataclass(frozen=True)
class ScoreTable:
    """Named raw scores of B clips. Missing is NaN with a status other than "ok"."""

    scores: dict[str, np.ndarray]  # NAME -> [B] float32
    status: dict[str, tuple[ScoreStatus, ...]]  # NAME -> B statuses
    versions: dict[str, str]  # NAME -> reward version
    seconds: dict[str, float] = field(default_factory=dict)  # NAME -> scoring time, s
