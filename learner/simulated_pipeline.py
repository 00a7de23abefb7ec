"""The pipeline in simulated time: what a fleet would do, before anybody pays for it.

The program that runs here is the real one: controller, producer, admission and ledger of a run. Simulated are the clock
and the actors, each of which only takes its service time: the event loop jumps to the next moment at which something
happens, so that a day of 512 generators passes in minutes.

Service times are the caller's: measured (benchmarks.scaling) or computed from a machine's data sheet
(learner.simulated_fleet).
"""

from __future__ import annotations

import asyncio
import selectors
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from actors.records import RolloutTask
from actors.replay import InsertReceipt
from cluster.errors import RunFailed
from cluster.ledger import Ledger
from cluster.weight_bus import Publication
from configs.schema import Config
from evaluation.score_rows import rows_table
from learner.controller import Controller
from learner.pools import Newest, Pools, Scored
from learner.prompts import PromptCursor
from learner.tasks import TaskPlan
from rewards.port import ScoreTable

EPOCH = "simulated"
SETTLED = 3  # first steps that do not count: queues fill


@dataclass(frozen=True)
class ServiceTimes:
    """Seconds that each actor's answer takes, calls included."""

    sample: float  # one task of one generator, decoding included
    activate: float  # from weights that have arrived to a generator that samples with them
    score: float  # one task of one scorer
    insert: float  # one task into the replay store
    take: float  # a batch out of it
    commit: float
    stats: float
    learn: float  # one step
    publish: float
    travel: float = 0.0  # from a publication to its arrival at all generators, which sample on meanwhile
    spread: float = 0.0  # standard deviation of `sample` over its mean, from task to task (log-normal)


@dataclass(frozen=True)
class Shape:
    """What is simulated."""

    generators: int
    scorers: int
    batch_rows: int
    task_rows: int
    max_staleness: int  # 0: synchronous
    steps: int = 40
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """Means over the settled steps."""

    step_s: float
    rows_per_s: float
    staleness: float  # versions
    staleness_max: int
    generators_busy: float  # share of their time in which they sample
    learner_busy: float


def simulate(shape: Shape, times: ServiceTimes) -> Outcome:
    """Runs the real controller on simulated actors. Raises what a run raises."""
    with TemporaryDirectory() as folder, asyncio.Runner(loop_factory=SimulatedTime) as runner:
        return runner.run(_simulate(shape, times, Path(folder)))


async def _simulate(shape: Shape, times: ServiceTimes, folder: Path) -> Outcome:
    newest, loop = Newest(), asyncio.get_running_loop()
    actors = _Actors(times, newest, shape.seed)
    generator = SimulatedPool("generator", shape.generators, actors.generator, times.activate, times.travel)
    scorer = SimulatedPool("scorer", shape.scorers, actors.scorer)
    learner = SimulatedPool("learner", 1, actors.learner)
    replay = SimulatedPool("replay", 1, actors.replay)
    evaluator = SimulatedPool("evaluator", 1, no_evaluation)

    async def score(clips: Any, rows: int) -> Scored:
        await scorer.call("score")
        return Scored(ScoreTable({}, {}, {}, {}), np.zeros(rows, np.float32))

    recorder, config = RowList(), config_of(shape)
    plan = TaskPlan(config, PromptCursor([f"simulated {i}" for i in range(1024)], 0), frame_rate_hz=1.0)
    pools = Pools(generator, scorer, replay, learner, evaluator)
    kept: Any = recorder
    await Controller(config, folder, pools, newest, plan, score, kept, Ledger(loop.time)).run(None)
    settled = settled_of(recorder.rows, shape)
    seconds = sum(row["seconds_step"] for row in settled)
    rows = sum(row["sequences"] for row in settled)
    return Outcome(
        step_s=seconds / len(settled),
        rows_per_s=rows / seconds,
        staleness=sum(row["staleness"] for row in settled) / len(settled),
        staleness_max=max(row["staleness_max"] for row in settled),
        generators_busy=generator.busy_s / (shape.generators * loop.time()),
        learner_busy=learner.busy_s / loop.time(),
    )


def settled_of(rows: list[dict[str, Any]], shape: Shape) -> list[dict[str, Any]]:
    """Without the first steps, and the last one, which has no work to overlap with."""
    return rows[SETTLED + shape.max_staleness : -1]


def config_of(shape: Shape) -> Config:
    """The settings of a run of this shape."""
    config = Config()
    config.learner.steps, config.learner.batch_size = shape.steps, shape.batch_rows
    config.actors.rollout_size, config.actors.generators = shape.task_rows, shape.generators
    config.pipeline.mode = "async" if shape.max_staleness else "sync"
    config.pipeline.max_staleness = shape.max_staleness
    config.run.checkpoint_every = shape.steps
    return config


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can be done, and then jumps to the next appointment."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        return self._elapsed_s

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise RunFailed("simulated pipeline: everybody waits for somebody else")
        self._elapsed_s += seconds


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that hands the waiting time to the clock instead of waiting."""

    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            self._jump(timeout)
        return ready


class SimulatedPool:
    """Members that take their time, behind the interface of cluster.supervision.ActorPool."""

    restarts = handed_back = late = pending = 0
    longest_wait_s = 0.0
    nodes: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        size: int,
        answer: Callable[..., tuple[float, Any]],
        prepare_s: float = 0.0,
        travel_s: float = 0.0,
    ) -> None:
        self.name, self.size, self.ready = name, size, size
        self.busy_s = 0.0
        self._answer = answer
        self._prepare_s, self._travel_s = prepare_s, travel_s
        self._revision, self._arrived_at = 0, 0.0
        self._idle: asyncio.Queue[list[int]] = asyncio.Queue()
        for _ in range(size):
            self._idle.put_nowait([0])  # the revision that the member is prepared for

    async def call(self, method: str, *arguments: Any, deadline_s: float | None = None) -> Any:
        member = await self._idle.get()
        try:
            await self._prepare(member)
            seconds, value = self._answer(method, *arguments)
            self.busy_s += seconds
            await asyncio.sleep(seconds)
            return value
        finally:
            self._idle.put_nowait(member)

    async def refresh(self) -> None:
        self._revision += 1
        self._arrived_at = asyncio.get_running_loop().time() + self._travel_s
        idle = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        await asyncio.gather(*(self._prepare(member) for member in idle))
        for member in idle:
            self._idle.put_nowait(member)

    def under_way(self) -> list[Any]:
        return []

    def resize(self, size: int) -> None: ...

    def drain(self, seconds_left: Mapping[str, float]) -> None: ...

    def lose_nodes(self, node_ids: frozenset[str]) -> None: ...

    async def _prepare(self, member: list[int]) -> None:
        if member[0] < self._revision:
            revision, now = self._revision, asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, self._arrived_at - now) + self._prepare_s)
            member[0] = revision


@dataclass(frozen=True)
class _Batch:
    """As much of a TrainingBatch as the controller and the simulated learner look at."""

    row_ids: np.ndarray
    task_ids: np.ndarray
    policy_versions: np.ndarray


class _Actors:
    """What the actors of a simulated run do, and how long it takes them."""

    def __init__(self, times: ServiceTimes, newest: Newest, seed: int) -> None:
        self._times, self._newest = times, newest
        self._rng = np.random.default_rng(seed)
        self._stored: list[tuple[int, int, int]] = []  # policy version, task, rows: in the order of consumption
        self._version = 0

    def generator(self, method: str, task: RolloutTask) -> tuple[float, Any]:
        spread = self._times.spread
        shape = np.sqrt(np.log1p(spread**2))
        factor = float(self._rng.lognormal(-(shape**2) / 2, shape)) if spread else 1.0
        return self._times.sample * factor, (self._newest.version, (task, self._newest.version), task)

    def scorer(self, method: str) -> tuple[float, Any]:
        return self._times.score, None

    def replay(self, method: str, *arguments: Any) -> tuple[float, Any]:
        if method == "insert_rollout":
            task, version = arguments[0]
            rows = len(task.prompts)
            insort(self._stored, (version, task.task_id, rows))
            return self._times.insert, InsertReceipt(rows, rows, version)
        if method == "sample":
            return self._times.take, self._oldest(arguments[0])
        if method == "stats":
            return self._times.stats, {"rows_available": sum(rows for _, _, rows in self._stored), "bytes": 0}
        return (self._times.commit if method == "commit" else 0.0), None

    def _oldest(self, wanted: int) -> _Batch:
        """Takes rows out of the store, those with the oldest weights first, as actors.replay does."""
        versions, tasks = list[int](), list[int]()
        while len(tasks) < wanted:
            version, task_id, rows = self._stored.pop(0)
            taken = min(rows, wanted - len(tasks))
            versions += [version] * taken
            tasks += [task_id] * taken
            if taken < rows:
                insort(self._stored, (version, task_id, rows - taken))
        return _Batch(np.arange(wanted), np.array(tasks), np.array(versions))

    def learner(self, method: str, *arguments: Any) -> tuple[float, Any]:
        if method == "publish":
            return self._times.publish, Publication(self._version, EPOCH, (), (), (), str(self._version))
        if method != "step":
            return 0.0, None
        late = self._version - arguments[0].policy_versions
        self._version += 1
        return self._times.learn, {
            "sequences": len(late),
            "staleness": float(late.mean()),
            "staleness_max": int(late.max()),
        }


def no_evaluation(method: str, publication: Publication, step: int, run_dir: str) -> tuple[float, Any]:
    """The evaluator's answer: nothing was heard, and it took no time."""
    return 0.0, _Evaluation(rows_table(step, [0], ["simulated"], [0], {"reward": np.zeros(1, np.float32)}, []))


@dataclass(frozen=True)
class _Evaluation:
    """As much of an EvaluationSummary as the controller looks at."""

    rows: Any
    means: dict[str, float] = field(default_factory=dict)
    in_reward: tuple[str, ...] = ()


class RowList:
    """A recorder that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words, **named: None
