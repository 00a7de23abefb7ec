"""A real run whose generators, reward and learner are simulated: each takes a stated time, and costs next to no CPU.

    python -m benchmarks.simulated_run sample_s=1 score_s=0.1 learn_s=0.5 [key=value of a run ...]

Everything else is real: Ray, the controller, admission, the replay store, the weight bus and activation. With it many
generators of a known speed fit on a small machine, which is told to have `CPUS` CPUs.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

CPUS = 16
TIMES = ("sample_s", "score_s", "learn_s")


def main(arguments: list[str]) -> int:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for name in TIMES:
        os.environ[_variable(name)] = str(float(given.pop(name, "0")))
    os.environ["RAY_OVERRIDE_RESOURCES"] = f'{{"CPU": {CPUS}}}'
    from cluster.session import _prepare_own_environment

    _prepare_own_environment()  # before ray is imported
    import learner.roles
    from benchmarks.simulated_actors import SimulatedGeneratorActor, SimulatedLearnerActor
    from learner.main import main as run

    learner.roles.GeneratorActor = SimulatedGeneratorActor  # type: ignore[misc]
    learner.roles.LearnerActor = SimulatedLearnerActor  # type: ignore[misc]
    return run([f"{key}={value}" for key, value in given.items()])


def take(name: str) -> None:
    """Passes the time that the command line stated."""
    time.sleep(float(os.environ[_variable(name)]))


def random_codes(streams: Any, rows: int, frames: int, seed: int) -> np.ndarray:
    """[B, K, T] uint16"""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(stream.size, size=(rows, frames)) for stream in streams], 1).astype(np.uint16)


def _variable(name: str) -> str:
    return f"MUSICRL_SIMULATED_{name.upper()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
