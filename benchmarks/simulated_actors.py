"""Actors that take a stated time instead of working (benchmarks.simulated_run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from actors.records import Rollout, RolloutTask, TrainingBatch
from benchmarks.simulated_run import EPOCH, random_codes, state, take
from cluster.weight_bus import WeightBus
from cluster.weight_transports import make_transport
from learner.learner_actor import LearnerActor
from learner.roles import GeneratorActor
from rewards.port import ClipBatch


class SimulatedGeneratorActor(GeneratorActor):
    """Fetches and activates weights as a generator does; its tokens are random."""

    def begin(self, stated: Mapping[str, float]) -> None:
        """A new run: no weights are active, and answers take the stated times."""
        state(stated)
        self._active = None

    def rollout_apart(self, task: RolloutTask) -> tuple[Rollout, ClipBatch]:
        take("sample_s")
        assert self._active is not None
        codes = random_codes(self._policy.streams, len(task.prompts), task.frames, task.task_id)
        clips = ClipBatch(task.prompts, self._codec.sample_rate_hz, codes=codes)
        log_probs = np.full(codes.shape, -1.0, np.float32)
        nothing = ClipBatch(task.prompts, self._codec.sample_rate_hz)
        seconds = {"sample": 0.0, "decode": 0.0}
        return Rollout(task, self._epoch, self._active.version, codes, log_probs, nothing, seconds), clips


class SimulatedLearnerActor(LearnerActor):
    """Publishes weights as a learner does; a step changes one number."""

    def begin(self, stated: Mapping[str, float]) -> None:
        """A new run, from version 0."""
        state(stated)
        self._learner.version, self._published = 0, -1
        self._bus = WeightBus(EPOCH, make_transport(self._config.weights))

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        take("learn_s")
        learner: Any = self._learner
        late = learner.version - batch.policy_versions
        with torch.no_grad():
            next(parameter for parameter in learner.policy.parameters() if parameter.requires_grad).view(-1)[0] += 1e-4
        learner.version += 1
        return {
            "sequences": len(batch),
            "tokens": int(batch.codes.size),
            "staleness": float(late.mean()),
            "staleness_max": int(late.max()),
            "reward": float(batch.rewards.mean()),
            "kl": 0.0,
            "kl_clip": 0.0,
        }


class SimulatedReward:
    """Share of low tokens, after the stated time."""

    version = "simulated-1"
    needs = frozenset({"codes"})

    def score(self, clips: ClipBatch) -> np.ndarray:
        take("score_s")
        assert clips.codes is not None
        return (clips.codes < 16).mean(axis=(1, 2)).astype(np.float32)
