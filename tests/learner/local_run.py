"""A run without Ray: real controller, producer, admission and replay store; generators, scorer and learner are small
stand-ins in this process that take a random number of turns of the event loop to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.exceptions import ObjectLostError

from actors.records import Rollout, RolloutTask, TrainingBatch
from actors.replay import ReplayStore
from cluster.ledger import Ledger
from cluster.weight_bus import Publication
from configs.schema import Config
from evaluation.score_rows import rows_table
from learner.controller import Controller
from learner.pools import Newest, Pools, Scored
from learner.prompts import PromptCursor
from learner.tasks import TaskPlan
from rewards.port import ClipBatch, ScoreTable

EPOCH = "epoch"
K, FRAMES = 2, 3


class Crash(Exception):
    """The whole program is gone."""


@dataclass
class World:
    """What a run is made of and what it meets. faults: chance of a NaN reward, of a task that yields nothing trainable,
    of clips that are lost."""

    folder: Path
    config: Config
    noise: np.random.Generator
    generators: int = 2
    nan_share: float = 0.0
    lost_share: float = 0.0
    crash_at_call: int = -1
    calls: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: list[tuple[int, int]] = field(default_factory=list)  # (task, version) of each rollout
    resize_share: float = 0.0  # chance, at each turn, that there are more or fewer generators from then on
    generator_pool: Any = None
    retired: list[Any] = field(default_factory=list)

    async def turns(self) -> None:
        """Lets the others run a while; the crash, if it is due."""
        self.calls += 1
        if self.calls == self.crash_at_call:
            raise Crash
        if self.noise.random() < self.resize_share and self.generator_pool is not None:
            self.generator_pool.resize(int(self.noise.integers(1, 6)))
        for _ in range(int(self.noise.integers(0, 12))):
            await asyncio.sleep(0)


class LocalPool:
    """One object per member behind the interface of ActorPool."""

    def __init__(self, name: str, world: World, members: list[Any], newest: Newest | None = None) -> None:
        self.name, self.size, self.ready, self.restarts = name, len(members), len(members), 0
        self.pending, self.longest_wait_s, self.handed_back, self.late = 0, 0.0, 0, 0
        self.nodes: frozenset[str] = frozenset()
        self._world, self._newest = world, newest
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        self._member = copy(members[0])
        for member in members:
            self._idle.put_nowait(member)

    async def call(self, method: str, *args: Any, deadline_s: float | None = None) -> Any:
        member = await self._idle.get()
        try:
            if self._newest is not None:
                member.version = self._newest.version  # as a pool with `prepare` does before every call
            await self._world.turns()
            result = getattr(member, method)(*args)
            await self._world.turns()
            return result
        finally:
            self._idle.put_nowait(member)

    async def refresh(self) -> None:
        await self._world.turns()

    def resize(self, size: int) -> None:
        """Members are equal: more of the first kind, or fewer once they are free."""
        for _ in range(size - self.size):
            self._idle.put_nowait(copy(self._member))
        for _ in range(self.size - size):
            self._world.retired.append(asyncio.ensure_future(self._idle.get()))
        self.size = self.ready = size

    def under_way(self) -> list[Any]:
        return []


class LocalGenerator:
    def __init__(self, world: World) -> None:
        self._world, self.version = world, -1

    def roll_out(self, task: RolloutTask) -> tuple[int, Rollout, ClipBatch]:
        if self._world.noise.random() < self._world.lost_share:
            raise ObjectLostError("0" * 56, None, "here")
        self._world.started.append((task.task_id, self.version))
        shape = (len(task.prompts), K, FRAMES)
        codes = np.random.default_rng([task.task_id, self.version]).integers(0, 8, shape).astype(np.uint16)
        clips = ClipBatch(task.prompts, 16_000, codes=codes)
        log_probs = np.zeros(shape, np.float32)
        return (
            self.version,
            Rollout(task, EPOCH, self.version, codes, log_probs, clips, {"sample": 0.1, "decode": 0.1}),
            clips,
        )


class LocalLearner:
    """Counts versions; its checkpoint is the controller's state in a file."""

    def __init__(self) -> None:
        self.version = 0

    def resume(self, checkpoint: str) -> dict[str, Any]:
        state = json.loads(Path(checkpoint).read_text())
        self.version = state["version"]
        return state

    def save(self, run_dir: str, state: dict[str, Any], needed: Sequence[int] = ()) -> None:
        (Path(run_dir) / "saved.json").write_text(json.dumps(state))

    def publish(self) -> Publication:
        return Publication(self.version, EPOCH, (), (), (), str(self.version))

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        staleness = self.version - batch.policy_versions
        self.version += 1
        return {"sequences": len(batch), "staleness_max": int(staleness.max()), "fresh": int(staleness.min())}


class LocalEvaluator:
    @dataclass
    class Summary:
        rows: Any
        means: dict[str, float]
        in_reward: tuple[str, ...] = ("reward",)

    def evaluate(self, publication: Publication, step: int, run_dir: str) -> Summary:
        scores = {"reward": np.zeros(1, np.float32), "judge": np.ones(1, np.float32)}
        return self.Summary(rows_table(step, [0], ["a"], [1], scores, ["reward"]), {"reward": 0.0, "judge": 1.0})


class RowList:
    """A recorder that keeps rows in the world."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def row(self, row: dict[str, Any]) -> None:
        assert not self._rows or row["learner_step"] == self._rows[-1]["learner_step"] + 1
        self._rows.append(row)

    def begin_at(self, version: int) -> None:
        self._rows[:] = [row for row in self._rows if row["learner_step"] <= version]

    def status(self, text: str) -> None: ...

    def evaluated(self, means: dict[str, float]) -> None: ...

    def alarm(self, text: str) -> None: ...

    def stall(self, stall: Any) -> None: ...
    def message(self, text: str) -> None: ...

    def actors(self, text: str) -> None: ...


def small_config(steps: int, batch: int, rollout: int, max_staleness: int) -> Config:
    """Synchronous for max_staleness 0."""
    config = Config()
    config.learner.steps, config.learner.batch_size, config.actors.rollout_size = steps, batch, rollout
    config.pipeline.mode = "async" if max_staleness else "sync"
    config.pipeline.max_staleness = max_staleness
    config.run.checkpoint_every = 2
    return config


def go(world: World, resume: bool = False) -> None:
    """The run to its end, or to the crash of the world."""

    async def main() -> None:
        config, newest = world.config, Newest()
        world.generator_pool = LocalPool(
            "generator", world, [LocalGenerator(world) for _ in range(world.generators)], newest
        )
        pools = Pools(
            world.generator_pool,
            LocalPool("scorer", world, [object()]),
            LocalPool("replay", world, [ReplayStore(world.folder / "replay", EPOCH)]),
            LocalPool("learner", world, [LocalLearner()]),
            LocalPool("evaluator", world, [LocalEvaluator()]),
        )
        plan = TaskPlan(config, PromptCursor([f"prompt {i}" for i in range(7)], 0), frame_rate_hz=25.0)
        recorder: Any = RowList(world.rows)
        controller = Controller(config, world.folder, pools, newest, plan, scorer(world), recorder, Ledger())
        saved = world.folder / "saved.json"
        await asyncio.wait_for(controller.run(saved if resume and saved.exists() else None), 60.0)

    asyncio.run(main())


def scorer(world: World) -> Callable[[ClipBatch, int], Any]:
    """Scores that are a function of the codes, so that a clip fails again when it is made again."""

    async def score(clips: ClipBatch, rows: int) -> Scored:
        await world.turns()
        assert clips.codes is not None and len(clips) == rows
        values = clips.codes.mean(axis=(1, 2)).astype(np.float32)
        chances = [np.random.default_rng(row.astype(np.int64).ravel()).random() for row in clips.codes]
        values[np.array(chances) < world.nan_share] = np.nan
        status = tuple("non_finite" if np.isnan(value) else "ok" for value in values)
        return Scored(ScoreTable({"mean": values}, {"mean": status}, {"mean": "1"}, {"mean": 0.01}), values)

    return score


def again(world: World, crash_at_call: int = -1) -> World:
    """The same folder and rows after a crash, with a fresh count of calls."""
    return replace(world, calls=0, crash_at_call=crash_at_call)
