"""`python -m learner.main` whose generators are slow, as those of a large policy are (simulated: they sleep). Here all
nodes share two cores, so that only waiting can be spread over them."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import ray

import learner.roles
from actors.records import Rollout, RolloutTask
from learner.main import main
from rewards.port import ClipBatch

SIMULATED_S = 1.0  # that sampling one task takes longer


class SimulatedSlowGenerator(learner.roles.GeneratorActor):
    @ray.method(num_returns=3)
    def roll_out(self, task: RolloutTask) -> tuple[int, Rollout, ClipBatch]:
        time.sleep(SIMULATED_S)
        rollout, clips = self.rollout_apart(task)
        seconds = {**rollout.seconds, "sample": rollout.seconds["sample"] + SIMULATED_S}
        return rollout.policy_version, replace(rollout, seconds=seconds), clips


if __name__ == "__main__":
    from tests.faults.slow_generators_main import SimulatedSlowGenerator as ByName  # found again where actors run

    learner.roles.GeneratorActor = ByName  # type: ignore[misc]
    sys.exit(main())
