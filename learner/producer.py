"""The producing half of a run: from a free generator to durable rows.

    issue ─▶ rollout ─▶ score ─▶ mix ─▶ insert ═▶ news
      ▲     generator   scorers  here   replay
      └── room: admission, and a generator that is free

Clips never pass through this process: they go from generator to scorer as object references, and so do the rows on
their way from generator to replay store.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from typing import Any

from ray import ObjectRef
from ray.exceptions import ObjectLostError

from actors.admission import Admission
from actors.records import RolloutTask
from actors.replay import InsertReceipt
from cluster.errors import RunFailed
from learner.activity import Activity
from learner.pools import Newest, Pools, Score
from learner.tasks import TaskPlan

logger = logging.getLogger(__name__)

ATTEMPTS = 4  # at one task, whose clips were lost with their node


@dataclass
class Counts:
    """Sums since step 0; they go into checkpoints, so that a resumed run counts on."""

    scores_missing: int = 0
    rows_dropped: int = 0
    rows_duplicate: int = 0
    rows_refused: int = 0


class Producer:
    """Starts a task whenever there is room for one, and sees it through. `news` is set when rows have arrived.

    due: the version at which the learner will take its next batch; the controller moves it.
    """

    def __init__(
        self, pools: Pools, newest: Newest, plan: TaskPlan, score: Score, admission: Admission, activity: Activity
    ) -> None:
        self.admission = admission
        self.counts = Counts()
        self.news = asyncio.Event()
        self.due = 0
        self._pools = pools
        self._newest = newest
        self._plan = plan
        self._score = score
        self._activity = activity
        self._open = False  # nothing starts before the run has begun: there are no weights, or tasks to restore
        self._sampling = 0  # tasks that a generator has, or that wait for one
        self._next_task = 0
        self._again: list[int] = []  # tasks that a checkpoint left open: they come first
        self._stored: frozenset[int] = frozenset()  # tasks that the store held when the run was resumed
        self._tasks: set[asyncio.Task[None]] = set()

    def start_in(self, group: asyncio.TaskGroup) -> None:
        """Tasks run in `group`, so that a failure of one ends the run."""
        self._group = group

    def open(self) -> None:
        """The run has begun: from now on tasks are issued."""
        self._open = True
        self.issue()

    def issue(self) -> None:
        """Starts tasks while there is room for their rows and a generator to sample them."""
        if not self._open:
            return
        rows, weights = self._plan.rows, self._newest.version
        while self._sampling < self._pools.generator.size and self.admission.capacity(self.due, weights) >= rows:
            task_id = self._take_number()
            self.admission.admit(task_id, rows, self.due, weights)
            self._sampling += 1
            task = self._group.create_task(self._produce(task_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def needs_generators(self) -> bool:
        """Whether any task is being sampled, or will be in this run."""
        to_come = self.admission.rows_to_come(self.due)
        return self._sampling > 0 or to_come is None or to_come >= self._plan.rows

    @property
    def needs_scorers(self) -> bool:
        return self.needs_generators or bool(self.admission.tasks_in_flight)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def state(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        open_tasks = sorted({*self.admission.tasks_in_flight, *self._again})
        return {"next_task": self._next_task, "open_tasks": open_tasks, "counts": asdict(self.counts)}

    async def restore(self, state: dict[str, Any], version: int) -> None:
        """Back to the checkpoint of `version`: what the store holds beyond it and still fits is used again."""
        replay = self._pools.replay
        await replay.call("recover", version)
        self.due = version
        self.counts = Counts(**state["counts"])
        self._next_task = state["next_task"]
        self._stored = frozenset(await replay.call("stored_tasks"))
        self._again = [task_id for task_id in state["open_tasks"] if task_id not in self._stored]
        uncounted = [i for i in self._stored if i >= self._next_task or i in state["open_tasks"]]
        rows_lost, scores_missing = await replay.call("losses", uncounted)
        late = self.admission.rebase(version, await replay.call("available_tasks"))
        too_late = await replay.call("drop", late, "too stale after a resume") if late else 0
        self.counts.rows_dropped += rows_lost + too_late
        self.counts.scores_missing += scores_missing

    def _take_number(self) -> int:
        if self._again:
            return self._again.pop(0)
        while self._next_task in self._stored:
            self._next_task += 1
        self._next_task += 1
        return self._next_task - 1

    async def _produce(self, task_id: int) -> None:
        """One task, from prompt to durable rows."""
        for _ in range(ATTEMPTS):
            try:
                receipt = await self._sample_score_insert(self._plan.task(task_id))
            except ObjectLostError as error:
                logger.warning("task %d is sampled again: %s", task_id, str(error).splitlines()[0])
                continue
            if not receipt.refused_reason:
                break
            self.counts.rows_refused += self._plan.rows
        else:
            raise RunFailed(f"task {task_id}: lost or refused {ATTEMPTS} times on its way to the replay store")
        self.admission.stored(task_id, receipt.trainable_rows, receipt.policy_version)
        self.issue()
        self.news.set()

    async def _sample_score_insert(self, task: RolloutTask) -> InsertReceipt:
        rollout, clips = await self._roll_out(task)
        with self._activity.producing("score"):
            scored = await self._score(clips, len(task.prompts))
        del clips  # the object store may let go of them
        with self._activity.producing("insert"):
            arguments = (rollout, scored.table, scored.reward)
            receipt: InsertReceipt = await self._pools.replay.call("insert_rollout", *arguments)
        if not receipt.refused_reason:
            self.counts.rows_duplicate += len(task.prompts) if receipt.duplicate else 0
            self.counts.rows_dropped += len(task.prompts) - receipt.trainable_rows
            self.counts.scores_missing += scored.missing
            for stage, seconds in receipt.seconds.items():
                self._activity.ledger.busy(stage, seconds)
        return receipt

    async def _roll_out(self, task: RolloutTask) -> tuple[ObjectRef, ObjectRef]:
        """-> references to the rollout and to its clips."""
        try:
            with self._activity.producing("sample"):
                _, rollout, clips = await self._pools.generator.call("roll_out", task)
        finally:
            self._sampling -= 1
        self.issue()
        return rollout, clips
