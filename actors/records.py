"""The frozen records that travel through the pipeline. Each stage makes a new one; none is changed in place.

RolloutTask -> Rollout -> ScoredRollout -> rows of the replay store -> TrainingBatch.
Arrays are numpy (read-only views when they come out of the object store).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy.port import SamplingSettings
from rewards.port import ClipBatch, ScoreTable


@dataclass(frozen=True)
class RolloutTask:
    """One unit of generator work. The same task with the same policy version gives the same rollout on any actor."""

    task_id: int
    prompts: tuple[str, ...]  # B prompts; a prompt sampled G times stands G times, in a row
    seeds: tuple[int, ...]  # one per sequence: the noise of a row depends on nothing else
    frames: int
    sampling: SamplingSettings


@dataclass(frozen=True)
class Rollout:
    """B sampled sequences."""

    task: RolloutTask
    epoch: str  # the run's incarnation: writes of an earlier one are refused
    policy_version: int
    codes: np.ndarray  # [B, K, T] uint16
    log_probs: np.ndarray  # [B, K, T] float32, of the distribution that was sampled
    clips: ClipBatch  # decoded views, for the scorers only
    seconds: dict[str, float]  # "sample", "decode"


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout with its raw scores and its reward; clips are no longer carried."""

    task: RolloutTask
    epoch: str
    policy_version: int
    codes: np.ndarray  # [B, K, T] uint16
    log_probs: np.ndarray  # [B, K, T] float32
    scores: ScoreTable
    reward: np.ndarray  # [B] float32; NaN where a reward with weight is missing: such rows are counted, never trained
    seconds: dict[str, float]  # "sample", "decode", "score"


@dataclass(frozen=True)
class TrainingBatch:
    """What one learner step consumes, rows ordered by (task_id, row) so that arrival order does not matter."""

    row_ids: np.ndarray  # [B] int64, the replay store's
    task_ids: np.ndarray  # [B] int64
    prompts: tuple[str, ...]
    codes: np.ndarray  # [B, K, T] uint16
    log_probs: np.ndarray  # [B, K, T] float32, behaviour
    policy_versions: np.ndarray  # [B] int64
    rewards: np.ndarray  # [B] float32, normalised and mixed
    scores: dict[str, np.ndarray]  # NAME -> [B] float32 raw
    sampling: SamplingSettings

    def __len__(self) -> int:
        return len(self.prompts)
