"""Scored rollouts of made-up content for the tests of this folder."""

from __future__ import annotations

import numpy as np

from actors.records import Rollout, RolloutTask, ScoredRollout
from policy.port import SamplingSettings
from rewards.port import ClipBatch, ScoreStatus, ScoreTable

EPOCH = "run-a"


def task_of(task_id: int, rows: int = 4, frames: int = 6, sampling: SamplingSettings | None = None) -> RolloutTask:
    prompts = tuple(f"prompt {task_id}.{row}" for row in range(rows))
    seeds = tuple(task_id * 100 + row for row in range(rows))
    return RolloutTask(task_id, prompts, seeds, frames, sampling or SamplingSettings(0.9, 1.5))


def scored(
    task_id: int,
    version: int = 0,
    rows: int = 4,
    streams: int = 3,
    frames: int = 6,
    epoch: str = EPOCH,
    missing: tuple[int, ...] = (),
    sampling: SamplingSettings | None = None,
) -> ScoredRollout:
    """Content is a function of (task, version), so that a test can tell what it got back. `missing`: rows without
    reward."""
    rng = np.random.default_rng([task_id, version])
    codes = rng.integers(0, 256, size=(rows, streams, frames)).astype(np.uint16)
    log_probs = -rng.random((rows, streams, frames), dtype=np.float32)
    reward = rng.standard_normal(rows).astype(np.float32)
    reward[list(missing)] = np.nan
    status: tuple[ScoreStatus, ...] = tuple("error" if row in missing else "ok" for row in range(rows))
    table = ScoreTable({"quality": reward.copy()}, {"quality": status}, {"quality": "v1"}, {"quality": 0.1})
    task = task_of(task_id, rows, frames, sampling)
    return ScoredRollout(task, epoch, version, codes, log_probs, table, reward, {"sample": 1.0})


def as_rollout(item: ScoredRollout) -> Rollout:
    clips = ClipBatch(item.task.prompts, 16_000)
    return Rollout(item.task, item.epoch, item.policy_version, item.codes, item.log_probs, clips, {"sample": 1.0})
