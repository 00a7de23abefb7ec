"""Real runs whose generators, reward and learner are simulated: each takes a stated time, and costs next to no CPU.

Everything else is real: Ray, pools, controller, admission, replay store, weight bus and activation. With it many
generators of a known speed fit on a small machine, which is told to have `CPUS` CPUs. One crew of actors serves one run
after the other, so that starting them does not have to be waited for each time.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CPUS = 8
EPOCH = "simulated"
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Stated:
    """What the simulated actors take, in seconds."""

    sample_s: float = 1.0
    score_s: float = 0.1
    learn_s: float = 0.6


def state(stated: Mapping[str, float]) -> None:
    """In an actor: from now on, answers take these times."""
    os.environ.update({_variable(name): str(seconds) for name, seconds in stated.items()})


def take(name: str) -> None:
    """Passes the time that was stated."""
    time.sleep(float(os.environ[_variable(name)]))


def random_codes(streams: Any, rows: int, frames: int, seed: int) -> np.ndarray:
    """[B, K, T] uint16"""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(stream.size, size=(rows, frames)) for stream in streams], 1).astype(np.uint16)


def prepare(stated: Stated) -> None:
    """Before Ray is imported: the environment of all processes."""
    from cluster.session import _prepare_own_environment

    state(vars(stated))  # scorers have no other way to hear of it
    os.environ["RAY_OVERRIDE_RESOURCES"] = f'{{"CPU": {CPUS}}}'
    _prepare_own_environment()


class SimulatedCrew:
    """Actors of up to so many generators; `start` first, then runs with fewer and fewer of them."""

    def __init__(self, generators: int) -> None:
        from learner.pools import Newest

        self._most = generators
        self._newest = Newest()
        self._folder = tempfile.TemporaryDirectory()

    async def start(self) -> None:
        import learner.roles
        from benchmarks.simulated_actors import SimulatedGeneratorActor, SimulatedLearnerActor
        from cluster.placement import plan
        from configs.load import load_config

        learner.roles.GeneratorActor = SimulatedGeneratorActor  # type: ignore[misc]
        learner.roles.LearnerActor = SimulatedLearnerActor  # type: ignore[misc]
        preset = Path(self._folder.name) / "simulated.yaml"
        preset.write_text('{"run": {"seed": 0}}')
        target = "rewards.simulated.target=benchmarks.simulated_actors:SimulatedReward"
        words = [f"preset={preset}", target, "rewards.simulated.shift=0", "rewards.simulated.scale=1"]
        words += [f"actors.generators={self._most}", "actors.generators_min=1", f"actors.generators_max={self._most}"]
        config = load_config([*words, "evaluation.judges=", "evaluation.prompts=1"])
        self._config = config
        self._roles = learner.roles.Roles(
            config, Path(self._folder.name), EPOCH, plan(config, [float(CPUS)]), True, lambda event: print(event)
        )
        self._crew = await self._roles.start(self._newest, ("simulated",))

    async def run(self, shape: Any, stated: Stated) -> list[dict[str, Any]]:
        """Rows of the settled steps of one run."""
        from cluster.ledger import Ledger
        from learner.controller import Controller
        from learner.pools import Pools
        from learner.prompts import PromptCursor
        from learner.run import _scoring
        from learner.simulated_pipeline import RowList, SimulatedPool, config_of, no_evaluation, settled_of
        from learner.tasks import TaskPlan

        generator, learner = self._crew.pools.generator, self._crew.pools.learner
        generator.resize(shape.generators)
        begin = asyncio.get_running_loop().time()
        while generator.ready != shape.generators or generator.pending:
            assert asyncio.get_running_loop().time() < begin + DEADLINE_S, "generators do not leave"
            await asyncio.sleep(0.1)
        self._newest.publication = None
        members: Any = generator
        await asyncio.gather(*(handle.begin.remote(vars(stated)) for handle in members.handles))
        await learner.call("begin", vars(stated))
        with tempfile.TemporaryDirectory() as folder:
            self._roles._run_dir = Path(folder)
            replay = self._roles._replay()
            await replay.start()
            evaluator = SimulatedPool("evaluator", 1, no_evaluation)
            pools = Pools(generator, self._crew.pools.scorer, replay, learner, evaluator)
            plan = TaskPlan(config_of(shape), PromptCursor(["a", "b", "c"], 0), frame_rate_hz=5.0)
            score, recorder = _scoring(self._config, self._crew, EPOCH), RowList()
            kept: Any = recorder
            ledger = Ledger()
            controller = Controller(config_of(shape), Path(folder), pools, self._newest, plan, score, kept, ledger)
            await controller.run(None)
            await replay.close()
        return settled_of(recorder.rows, shape)

    async def close(self) -> None:
        await self._roles.close()
        self._folder.cleanup()


def _variable(name: str) -> str:
    return f"MUSICRL_SIMULATED_{name.upper()}"
