"""The loop of a run: rollouts become batches, batches become versions. One program for both pipeline modes.

    issue ─▶ rollout ─▶ score ─▶ mix ─▶ insert ═▶ take ─▶ learn ─▶ commit ─▶ publish ─▶ row ─▶ checkpoint ─▶ evaluate
      ▲     generator   scorers  here   replay         learner    replay    generators
      └──────────────── room: admission, a free generator ◀──────────────────┘ version + 1

    loop       consumes              produces                waits for                    is unblocked by
    issue      room, a free          one `_produce` task     nothing: it is called        an insert, a drop, a publish,
               generator             per rollout task        whenever room may be new     a generator that is done
    _produce   a RolloutTask         durable rows, news      generator, scorers, replay   their answers, or a deadline
    _learn     a batch of rows       a version, its row,     news that a batch may be     an insert, or the end of
                                     checkpoint, evaluation  taken (`Admission`)          the last task in flight
    _watch     the time of the       RunFailed naming the    the clock                    the clock
               last progress         stage that stalls

Synchronous mode is the same program with a staleness bound of 0: no task of the next version fits before the step is
done and published. Asynchronous mode lets the generators run on while the learner steps. A generator activates the
newest weights before its next task, so that a task never starts with older ones than the controller admitted it for.

Clips never pass through this process: they go from generator to scorer as object references.

A checkpoint of version N holds the learner's state and this controller's (`_state`); the replay store is wound back to
N by `recover`. Work stored before the kill and still valid is used again, everything else is made again by number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import ObjectRef
from ray.exceptions import ObjectLostError

from actors.admission import Admission
from actors.records import RolloutTask, TrainingBatch
from actors.replay import InsertReceipt
from cluster.errors import Interrupted, RunFailed
from cluster.ledger import Ledger
from cluster.supervision import ActorPool
from cluster.weight_bus import Publication
from configs.schema import Config
from evaluation.score_rows import append_rows, read_rows, steps_of, truncate_rows
from learner.recorder import Recorder
from learner.tasks import TaskPlan
from rewards.port import ScoreTable

logger = logging.getLogger(__name__)

Row = dict[str, int | float]
PRODUCE_ATTEMPTS = 4


@dataclass(frozen=True)
class Pools:
    """The actors of a run, one pool per role."""

    generator: ActorPool
    scorer: ActorPool
    replay: ActorPool
    learner: ActorPool
    evaluator: ActorPool

    def all(self) -> tuple[ActorPool, ...]:
        return (self.generator, self.scorer, self.replay, self.learner, self.evaluator)


@dataclass(frozen=True)
class Scored:
    """Scores of one rollout, and the reward they mix to."""

    table: ScoreTable
    reward: np.ndarray  # [B] float32, NaN where one is missing

    @property
    def missing(self) -> int:
        """Scores that a reward did not give."""
        return sum(status != "ok" for statuses in self.table.status.values() for status in statuses)


@dataclass
class Newest:
    """The publication that generators prepare themselves with; shared with the pool that does it."""

    publication: Publication | None = None


@dataclass
class Counts:
    """Sums since step 0; they go into checkpoints, so that a resumed run counts on."""

    scores_missing: int = 0
    rows_dropped: int = 0
    rows_duplicate: int = 0
    rows_refused: int = 0


class Controller:
    """One run, from a checkpoint or from the start, to `learner.steps`.

    score: reference to the clips of a rollout, and how many -> scores and reward. recorder: takes each
    step's finished row.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        pools: Pools,
        newest: Newest,
        plan: TaskPlan,
        score: Callable[[ObjectRef, int], Coroutine[Any, Any, Scored]],
        recorder: Recorder,
        ledger: Ledger,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.pools = pools
        self._newest = newest
        self.version = 0
        self.counts = Counts()
        self._restarts_before: dict[str, int] = {}
        self._plan = plan
        self._score = score
        self._recorder = recorder
        self._ledger = ledger
        self._asynchronous = config.pipeline.mode == "async"
        self._admission = Admission(
            config.learner.batch_size,
            config.pipeline.max_staleness if self._asynchronous else 0,
            unit_rows=plan.rows,
            steps=config.learner.steps,
        )
        self._due = 0  # the version at which the next batch will be taken
        self._next_task = 0
        self._again: list[int] = []  # tasks that the checkpoint left open: they come first
        self._stored: frozenset[int] = frozenset()  # tasks that the store held when the run was resumed
        self._free = pools.generator.size
        self._producing: set[asyncio.Task[None]] = set()
        self._doing: Counter[str] = Counter()
        self._progress_at = time.monotonic()
        self._news = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Asks for a checkpoint between two steps, and an end with Interrupted."""
        self._stopping = True
        self._news.set()

    async def run(self, resume_from: Path | None) -> None:
        """Raises RunFailed, what an actor's method raised, or Interrupted."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                watch = group.create_task(self._watch())
                await self._begin(resume_from)
                self._ledger.started()
                await self._learn()
                for task in (watch, *self._producing):
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    # ---- begin ----------------------------------------------------------------------------------------------------

    async def _begin(self, resume_from: Path | None) -> None:
        """Brings learner, replay store and this controller to one version, and publishes it."""
        if resume_from is not None:
            await self._resume(resume_from)
        self._due = self.version
        await self._publish()
        if resume_from is None:
            await self._checkpoint()
        await self._evaluate_once()

    async def _resume(self, checkpoint: Path) -> None:
        state = await self.pools.learner.call("resume", str(checkpoint), deadline_s=self._learner_deadline_s)
        self.version = state["version"]
        self._next_task = state["next_task"]
        self.counts = Counts(**state["counts"])
        self._restarts_before = state["restarts"]
        await self.pools.replay.call("recover", self.version)
        self._stored = frozenset(await self.pools.replay.call("stored_tasks"))
        self._again = [task_id for task_id in state["open_tasks"] if task_id not in self._stored]
        new = [i for i in self._stored if i >= self._next_task or i in state["open_tasks"]]  # not in the counts yet
        rows_lost, scores_missing = await self.pools.replay.call("losses", new)
        self.counts.rows_dropped += rows_lost
        self.counts.scores_missing += scores_missing
        late = self._admission.rebase(self.version, await self.pools.replay.call("available_tasks"))
        if late:
            self.counts.rows_dropped += await self.pools.replay.call("drop", late, "too stale after a resume")
        self._recorder.begin_at(self.version)
        truncate_rows(self.run_dir, self.version)
        self._recorder.status(f"resumed at step {self.version}")

    def _state(self) -> dict[str, Any]:
        """What a checkpoint must know beside the learner."""
        open_tasks = sorted({*self._admission.tasks_in_flight, *self._again})
        return {
            "version": self.version,
            "next_task": self._next_task,
            "open_tasks": open_tasks,
            "counts": asdict(self.counts),
            "restarts": self._restarts(),
        }

    # ---- from a free place to durable rows ------------------------------------------------------------------------

    def _issue(self) -> None:
        """Starts tasks while there is room for their rows and a generator to sample them."""
        assert self._newest.publication is not None
        weights = self._newest.publication.version
        while self._free > 0 and self._admission.capacity(self._due, weights) >= self._plan.rows:
            task_id = self._take_number()
            self._admission.admit(task_id, self._plan.rows, self._due, weights)
            self._free -= 1
            task = self._group.create_task(self._produce(task_id))
            self._producing.add(task)
            task.add_done_callback(self._producing.discard)

    def _take_number(self) -> int:
        if self._again:
            return self._again.pop(0)
        while self._next_task in self._stored:
            self._next_task += 1
        self._next_task += 1
        return self._next_task - 1

    async def _produce(self, task_id: int) -> None:
        """One task, from prompt to durable rows; sampled again where a node took its clips with it."""
        for _ in range(PRODUCE_ATTEMPTS):
            try:
                receipt = await self._sample_score_insert(task_id)
            except ObjectLostError as error:
                logger.warning("task %d is sampled again: %s", task_id, str(error).splitlines()[0])
                continue
            if not receipt.refused_reason:
                break
            self.counts.rows_refused += self._plan.rows
        else:
            raise RunFailed(f"task {task_id}: lost or refused {PRODUCE_ATTEMPTS} times on its way to the replay store")
        self._admission.stored(task_id, receipt.trainable_rows, receipt.policy_version)
        self._issue()
        self._news.set()

    async def _sample_score_insert(self, task_id: int) -> InsertReceipt:
        task = self._plan.task(task_id)
        rollout, clips = await self._roll_out(task)
        with self._stage("score", shared=True):
            scored = await self._score(clips, len(task.prompts))
        del clips  # the object store may let go of them
        with self._stage("insert", shared=True):
            receipt: InsertReceipt = await self.pools.replay.call(
                "insert_rollout", rollout, scored.table, scored.reward
            )
        if not receipt.refused_reason:
            self.counts.rows_duplicate += self._plan.rows if receipt.duplicate else 0
            self.counts.rows_dropped += self._plan.rows - receipt.trainable_rows
            self.counts.scores_missing += scored.missing
            for stage, seconds in receipt.seconds.items():
                self._ledger.busy(stage, seconds)
        return receipt

    async def _roll_out(self, task: RolloutTask) -> tuple[ObjectRef, ObjectRef]:
        """-> references to the rollout and to its clips."""
        try:
            with self._stage("sample", shared=True):
                _, rollout, clips = await self.pools.generator.call("roll_out", task)
        finally:
            self._free += 1
        self._issue()
        return rollout, clips

    # ---- from rows to versions ------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Steps until the last version; each ends with its row and, where due, evaluation and checkpoint."""
        self._issue()
        while self.version < self.config.learner.steps:
            batch = await self._take_batch()
            metrics = await self._step(batch)
            await self._publish()
            self._issue()
            judges = await self._evaluate_once() if self._is_due(self.config.evaluation.every) else {}
            await self._finish_row({**metrics, **judges})
            if self._is_due(self.config.run.checkpoint_every):
                await self._checkpoint()

    async def _take_batch(self) -> TrainingBatch:
        """Waits until admission lets the learner take rows, and takes them."""
        with self._stage("wait") if self._asynchronous else nullcontext():
            while not (rows := self._admission.consumable(self._due)):
                await self._stop_here_if_asked()
                self._news.clear()
                await self._news.wait()
        await self._stop_here_if_asked()
        with self._stage("insert"):
            batch = await self.pools.replay.call("sample", rows, None, self.version)
        if batch is None:
            raise RunFailed(f"replay store: {rows} rows expected for step {self.version + 1}, it has fewer")
        self._admission.consumed(self._due, [int(task_id) for task_id in batch.task_ids])
        self._due += 1
        return batch

    async def _step(self, batch: TrainingBatch) -> Row:
        with self._stage("learn"):
            metrics = await self.pools.learner.call("step", batch, deadline_s=self._learner_deadline_s)
        self.version += 1
        with self._stage("insert"):
            await self.pools.replay.call("commit", batch.row_ids, self.version)
        return metrics

    async def _publish(self) -> None:
        with self._stage("publish"):
            self._newest.publication = await self.pools.learner.call("publish", deadline_s=self._learner_deadline_s)
            await self.pools.generator.refresh()

    async def _evaluate_once(self) -> Row:
        """Evaluates the current version unless its rows are there -> judge_NAME, the means of the held-out judges."""
        if self.version in steps_of(read_rows(self.run_dir)):
            return {}
        self._recorder.status(f"evaluating step {self.version}")
        with self._stage("evaluate"):
            arguments = (self._newest.publication, self.version, str(self.run_dir))
            summary = await self.pools.evaluator.call("evaluate", *arguments)
        append_rows(self.run_dir, summary.rows)
        held_out = {name: mean for name, mean in summary.means.items() if name not in summary.in_reward}
        self._recorder.evaluated(held_out)
        self._recorder.status("")
        return {f"judge_{name}": mean for name, mean in held_out.items()}

    async def _finish_row(self, metrics: Row) -> None:
        with self._stage("insert"):
            stats = await self.pools.replay.call("stats")
        seconds = self._ledger.close_row()
        spent = sum(value for name, value in seconds.items() if name.startswith("seconds_"))
        audio_s = metrics["sequences"] * self.config.sampling.seconds
        self._recorder.row(
            {
                "learner_step": self.version,
                "policy_version": self.version,
                "time_unix": time.time(),
                **metrics,
                **seconds,
                "seconds_step": spent,
                "audio_seconds_per_second": audio_s / max(spent, 1e-9),
                **asdict(self.counts),
                **self._restarts(),
                "replay_rows": stats["rows_available"],
                "replay_bytes": stats["bytes"],
            }
        )

    async def _checkpoint(self) -> None:
        """Saves version and state; then the store may let go of what no kept checkpoint can ask for."""
        with self._stage("checkpoint"):
            await self.pools.learner.call("save", str(self.run_dir), self._state(), deadline_s=self._learner_deadline_s)
            oldest = max(0, self.version - self.config.run.keep_checkpoints * self.config.run.checkpoint_every)
            await self.pools.replay.call("reclaim", oldest)

    def _restarts(self) -> dict[str, int]:
        """restarts_ROLE since step 0."""
        now = {f"restarts_{pool.name}": pool.restarts for pool in self.pools.all()}
        return {name: count + self._restarts_before.get(name, 0) for name, count in now.items()}

    def _is_due(self, every: int) -> bool:
        return self.version == self.config.learner.steps or (every > 0 and self.version % every == 0)

    async def _stop_here_if_asked(self) -> None:
        if self._stopping:
            await self._checkpoint()
            raise Interrupted

    # ---- supervision ----------------------------------------------------------------------------------------------

    @property
    def _learner_deadline_s(self) -> float:
        """A step has no deadline of its own: the watch ends a run that stalls."""
        return 2 * self.config.pipeline.stall_s

    @contextmanager
    def _stage(self, name: str, shared: bool = False) -> Iterator[None]:
        """Marks what the run is doing, for the watch and the ledger. shared: work that runs beside the learner in
        asynchronous mode, where the clock belongs to the learner's own loop."""
        self._doing[name] += 1
        try:
            with nullcontext() if shared and self._asynchronous else self._ledger.stage(name):
                yield
        finally:
            self._doing[name] -= 1
        self._progress_at = time.monotonic()

    async def _watch(self) -> None:
        """Ends a run in which nothing got done for pipeline.stall_s."""
        limit_s = self.config.pipeline.stall_s
        while True:
            await asyncio.sleep(min(1.0, limit_s / 4))
            if time.monotonic() - self._progress_at > limit_s:
                stages = ", ".join(f"{name} ({count})" for name, count in self._doing.items() if count) or "wait"
                raise RunFailed(f"no progress for {limit_s:.0f} s (pipeline.stall_s) in: {stages}")


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The first exception of a group: what ended the run; the others followed from it."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
