"""The loop of a run: rollouts become batches, batches become versions. One program for both pipeline modes.

    issue ─▶ rollout ─▶ score ─▶ mix ─▶ insert ═▶ take ─▶ learn ─▶ commit ─▶ publish ─▶ evaluate ─▶ row ─▶ checkpoint
      ▲     generator   scorers  here   replay         learner    replay    generators
      └──────────────── room: admission, a free generator ◀──────────────────┘ version + 1

    loop       consumes              produces                waits for                    is unblocked by
    issue      room, a free          one `_produce` task     nothing: it is called        an insert, a publish, a
               generator             per rollout task        whenever room may be new     generator that is done
    _produce   a RolloutTask         durable rows, news      generator, scorers, replay   their answers, or a deadline
    _learn     a batch of rows       a version, its row,     news that a batch may be     an insert
                                     checkpoint, evaluation  taken (`Admission`)
    watch      the time of the       RunFailed naming the    the clock                    the clock
               last progress         stage that stalls

The first two are learner.producer, the last is learner.watchdog.

Synchronous mode is the same program with a staleness bound of 0: no task of the next version fits before the step is
done and published. Asynchronous mode lets the generators run on while the learner steps. A generator activates the
newest weights before its next task, so that a task never starts with older ones than it was admitted for.

A checkpoint of version N holds the learner's state and this program's (`_state`). On resume the replay store is wound
back to N and metrics and evaluations are cut after N. Work that was stored after the checkpoint and still fits is used
again; everything else is made again by number, and comes out the same.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.admission import Admission
from actors.records import TrainingBatch
from cluster.errors import Interrupted, RunFailed
from cluster.ledger import Ledger
from cluster.member import CallUnderWay
from cluster.nodes import NodeWatch
from configs.schema import Config
from evaluation.score_rows import append_rows, read_rows, steps_of, truncate_rows
from learner.activity import Activity
from learner.delivery import use_newest
from learner.fleet import Fleet
from learner.guard import Guard
from learner.pools import Newest, Pools, Score
from learner.producer import Producer
from learner.recorder import Recorder
from learner.tasks import TaskPlan
from learner.watchdog import Watchdog

Row = dict[str, int | float]


async def _at_once() -> None:
    """What is in the run folder is kept there."""


class Controller:
    """One run, from a checkpoint or from the start, to `learner.steps`. recorder: takes each step's finished row. keep:
    returns when what is in the run folder is where it is kept; until then a checkpoint is not made."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        pools: Pools,
        newest: Newest,
        plan: TaskPlan,
        score: Score,
        recorder: Recorder,
        ledger: Ledger,
        keep: Callable[[], Awaitable[None]] = _at_once,
        nodes: NodeWatch | None = None,
    ) -> None:
        beside = config.pipeline.mode == "async"
        bound = config.pipeline.max_staleness if beside else 0
        admission = Admission(config.learner.batch_size, bound, unit_rows=plan.rows, steps=config.learner.steps)
        self.version = 0
        self._config = config
        self._run_dir = run_dir
        self._pools = pools
        self._newest = newest
        self._recorder = recorder
        self._ledger = ledger
        self._keep = keep
        self._activity = Activity(ledger, beside)
        self._watchdog = Watchdog(self._activity, self._calls, config.pipeline, recorder.stall)
        self._guard = Guard(config, run_dir)
        self._producer = Producer(pools, newest, plan, score, admission, self._activity)
        self._fleet = Fleet(config, pools, self._producer, self._activity, recorder, nodes)
        self._restarts_before: dict[str, int] = {}
        self._stopping = False

    @property
    def stopped_by(self) -> str:
        """What the guard ended the run for, and what to go on with; empty where it did not."""
        guard = self._guard
        if not guard.stops or guard.first is None:
            return ""
        proposed = f"checkpoints/step_{guard.proposed_step}/policy" if guard.proposed_step is not None else "none kept"
        return f"stopped on alarm, {guard.first.line}; proposed: {proposed}"

    def live(self) -> Row:
        """What Prometheus sees between two rows; may be called from another thread."""
        config, pools = self._config, self._pools.all()
        return {
            "steps_planned": config.learner.steps,
            "staleness_bound": self._producer.admission.bound,
            "stall_bound": config.pipeline.stall_s,
            "replay_bytes_bound": config.replay.max_bytes,
            "disk_free_bytes": shutil.disk_usage(self._run_dir).free,
            "tasks_in_flight": len(self._producer.admission.tasks_in_flight),
            **{f"actors_{pool.name}": pool.ready for pool in pools},
            **{f"wanted_{pool.name}": pool.size for pool in pools},
            **self._fleet.live(),
            **{f"stalled_{stage}": seconds for stage, seconds in self._activity.stalled().items()},
        }

    def stop(self) -> None:
        """Asks for a checkpoint between two steps, and an end with Interrupted."""
        self._stopping = True
        self._producer.news.set()

    async def run(self, resume_from: Path | None) -> None:
        """Raises RunFailed, what an actor's method raised, or Interrupted."""
        try:
            async with asyncio.TaskGroup() as group:
                self._producer.start_in(group)
                watches = [group.create_task(each.watch()) for each in (self._watchdog, self._fleet)]
                await self._begin(resume_from)
                self._ledger.started()
                await self._learn()
                for watch in watches:
                    watch.cancel()
                self._producer.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    # ---- begin ----------------------------------------------------------------------------------------------------

    async def _begin(self, resume_from: Path | None) -> None:
        """Brings learner, replay store and this program to one version, and publishes it."""
        if resume_from is not None:
            await self._resume(resume_from)
        await self._publish()
        if resume_from is None:
            await self._checkpoint()
        if self.version == 0:  # a later checkpoint is only made after its evaluation
            await self._evaluate_once()

    async def _resume(self, checkpoint: Path) -> None:
        state = await self._pools.learner.call("resume", str(checkpoint), deadline_s=self._learner_deadline_s)
        self.version = state["version"]
        self._newest.refused = state.get("weights_refused", 0)
        self._restarts_before = state["restarts"]
        await self._producer.restore(state["producer"], self.version)
        self._recorder.begin_at(self.version)
        truncate_rows(self._run_dir, self.version)
        self._guard.begin_at(self.version)
        self._recorder.status(f"resumed at step {self.version}")

    def _state(self) -> dict[str, Any]:
        """What a checkpoint must know beside the learner."""
        producer, refused = self._producer.state(), self._newest.refused
        return {"version": self.version, "producer": producer, "restarts": self._restarts(), "weights_refused": refused}

    # ---- from rows to versions ------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Steps until the last version; each ends with its row and, where due, evaluation and checkpoint."""
        if not self._guard.stops:
            self._producer.open()
        while self.version < self._config.learner.steps and not self._guard.stops:
            batch = await self._take_batch()
            metrics = await self._step(batch)
            self._guard.stepped(self.version, metrics)
            await self._publish()
            self._producer.issue()
            judges = await self._evaluate_once() if self._is_due(self._config.evaluation.every) else {}
            await self._finish_row({**metrics, **judges, **self._guard.row()})
            if self._is_due(self._config.run.checkpoint_every) or self._guard.stops:
                await self._checkpoint()

    async def _take_batch(self) -> TrainingBatch:
        """Waits until admission lets the learner take rows, and takes them."""
        producer = self._producer
        with self._activity.waiting():
            while not (rows := producer.admission.consumable(producer.due)):
                await self._stop_here_if_asked()
                producer.news.clear()
                await producer.news.wait()
        await self._stop_here_if_asked()
        with self._activity.stage("insert"):
            batch = await self._pools.replay.call("sample", rows, None, self.version)
        if batch is None:
            raise RunFailed(f"replay: {rows} rows expected for step {self.version + 1}, it has fewer")
        producer.admission.consumed(producer.due, [int(task_id) for task_id in batch.task_ids])
        producer.due += 1
        return batch

    async def _step(self, batch: TrainingBatch) -> Row:
        with self._activity.stage("learn"):
            metrics: Row = await self._pools.learner.call("step", batch, deadline_s=self._learner_deadline_s)
        self.version += 1
        with self._activity.stage("insert"):
            await self._pools.replay.call("commit", batch.row_ids, self.version)
        return metrics

    async def _publish(self) -> None:
        """Idle generators activate the new weights here, busy ones before their next task."""
        with self._activity.stage("publish"):
            publication = await self._pools.learner.call("publish", deadline_s=self._learner_deadline_s)
            self._newest.publication = publication
            await self._pools.generator.refresh()

    async def _evaluate_once(self) -> Row:
        """Evaluates the current version unless its rows are there -> judge_NAME, the means of the held-out judges."""
        if self.version in steps_of(read_rows(self._run_dir)):
            return {}
        self._recorder.status(f"evaluating step {self.version}")
        with self._activity.stage("evaluate"):
            evaluator, place = self._pools.evaluator, (self.version, str(self._run_dir))
            summary = await use_newest(
                self._newest, self._pools.learner, lambda weights: evaluator.call("evaluate", weights, *place)
            )
        append_rows(self._run_dir, summary.rows)
        held_out = {name: mean for name, mean in summary.means.items() if name not in summary.in_reward}
        self._recorder.evaluated(held_out)
        self._recorder.status("")
        for alarm in self._guard.evaluated(self.version, saved=self._is_due(self._config.run.checkpoint_every)):
            self._recorder.alarm(alarm.line)
        return {f"judge_{name}": mean for name, mean in held_out.items()}

    async def _finish_row(self, metrics: Row) -> None:
        with self._activity.stage("insert"):
            stats = await self._pools.replay.call("stats")
        seconds = self._ledger.close_row()
        spent_s = sum(value for name, value in seconds.items() if name.startswith("seconds_"))
        audio_s = metrics["sequences"] * self._config.sampling.seconds
        self._fleet.stepped(seconds)
        self._recorder.row(
            {
                "learner_step": self.version,
                "policy_version": self.version,
                "time_unix": time.time(),
                **metrics,
                **seconds,
                "seconds_step": spent_s,
                "audio_seconds_per_second": audio_s / max(spent_s, 1e-9),
                **asdict(self._producer.counts),
                **self._restarts(),
                "weights_refused": self._newest.refused,
                "replay_rows": stats["rows_available"],
                "replay_bytes": stats["bytes"],
            }
        )

    async def _checkpoint(self) -> None:
        """Saves version and state; then the store may let go of what no kept checkpoint can ask for."""
        run, learner = self._config.run, self._pools.learner
        with self._activity.stage("checkpoint"):
            arguments = (str(self._run_dir), self._state(), self._guard.needed)
            await learner.call("save", *arguments, deadline_s=self._learner_deadline_s)
            await self._activity.patiently(self._keep())
            oldest_kept = max(0, self.version - run.keep_checkpoints * run.checkpoint_every)
            await self._pools.replay.call("reclaim", oldest_kept)

    def _calls(self) -> list[CallUnderWay]:
        """What the actors have been asked and have not answered yet."""
        return [call for pool in self._pools.all() for call in pool.under_way()]

    def _restarts(self) -> dict[str, int]:
        """restarts_ROLE, handed_back_ROLE and late_ROLE since step 0."""
        now = {f"restarts_{pool.name}": pool.restarts for pool in self._pools.all()}
        for pool in (self._pools.generator, self._pools.scorer):
            now |= {f"handed_back_{pool.name}": pool.handed_back, f"late_{pool.name}": pool.late}
        return {name: count + self._restarts_before.get(name, 0) for name, count in now.items()}

    def _is_due(self, every: int) -> bool:
        return self.version == self._config.learner.steps or (every > 0 and self.version % every == 0)

    async def _stop_here_if_asked(self) -> None:
        if self._stopping:
            await self._checkpoint()
            raise Interrupted

    @property
    def _learner_deadline_s(self) -> float:
        """No deadline of its own: the watch ends a run that stalls, this only ends the wait."""
        return 2 * self._config.pipeline.stall_s


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The first exception of a group: what ended the run; the others followed from it."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
