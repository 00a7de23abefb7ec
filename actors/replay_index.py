"""What the replay store knows about each stored task: where it lies and what became of its rows.

Pure bookkeeping: the same events in the same order give the same index, whether they happen or are read from disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from actors import rows as schema
from actors.replay_log import Record
from policy.port import SamplingSettings

Rows = Mapping[int, np.ndarray]  # task -> its rows [n] int64


@dataclass
class StoredTask:
    """One insert."""

    task_id: int
    insert_order: int
    policy_version: int
    sampling: SamplingSettings
    trainable: np.ndarray  # [B] bool
    segment: str
    offset_bytes: int
    trained: list[tuple[np.ndarray, int]] = field(default_factory=list)  # (rows [n] int64, step)
    given_up: bool = False  # its remaining rows are never trained

    def open_rows(self, times_sampled: int) -> np.ndarray:
        """Rows that wait for the learner. -> [n] int64, ascending."""
        if self.given_up:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.trainable & (self.times_trained() < times_sampled))

    def times_trained(self) -> np.ndarray:
        """-> [B] int64."""
        times = np.zeros(len(self.trainable), dtype=np.int64)
        for rows, _ in self.trained:
            times[rows] += 1
        return times

    def trained_in(self, step: int) -> np.ndarray:
        """Rows that `step` trained. -> [n] int64."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(rows for rows, s in self.trained if s == step)])


@dataclass
class Totals:
    """Sums over the tasks that are on disk; kept up to date, so that asking costs nothing however long the run."""

    rows: int = 0
    untrainable: int = 0
    uses: int = 0  # of rows in training
    staleness: int = 0  # sum over uses: the learner's version then, minus the row's
    staleness_max: int = 0

    def add(self, task: StoredTask) -> None:
        self.rows += len(task.trainable)
        self.untrainable += int((~task.trainable).sum())

    def use(self, task: StoredTask, rows: int, step: int) -> None:
        stale = step - 1 - task.policy_version
        self.uses += rows
        self.staleness += rows * stale
        self.staleness_max = max(self.staleness_max, stale)


class ReplayIndex:
    """Tasks by id, and the counters of everything that left."""

    def __init__(self, times_sampled: int = 1) -> None:
        self.times_sampled = times_sampled
        self.tasks: dict[int, StoredTask] = {}
        self.gone: set[int] = set()  # tasks whose segment was reclaimed: done with, and not to be stored again
        self.rows_dropped = 0
        self.reclaimed_step = 0  # there is no way back to a checkpoint before this one
        self.totals = Totals()
        self._open: set[int] = set()

    def add(self, task: StoredTask) -> None:
        """A new task. Raises ValueError for one that is there."""
        if task.task_id in self.tasks:
            raise ValueError(f"task {task.task_id} is stored twice")
        self.tasks[task.task_id] = task
        self.totals.add(task)
        self._refresh(task)

    def waiting(self) -> list[tuple[StoredTask, np.ndarray]]:
        """Tasks with open rows [n], oldest weights first."""
        tasks = (self.tasks[task_id] for task_id in self._open)
        ordered = sorted(tasks, key=lambda task: (task.policy_version, task.task_id))
        return [(task, task.open_rows(self.times_sampled)) for task in ordered]

    def commit(self, rows: Rows, step: int) -> None:
        """Rows were trained in `step`. Those of reclaimed tasks are past caring."""
        for task_id, picked in rows.items():
            task = self.tasks.get(task_id)
            if task is not None:
                task.trained.append((picked, step))
                self.totals.use(task, len(picked), step)
                self._refresh(task)

    def recover(self, version: int) -> int:
        """Back to the checkpoint of `version`: what came after it has not happened. -> rows dropped."""
        late = [t for t in self.tasks.values() if t.policy_version > version]
        for task in late:
            del self.tasks[task.task_id]
            self._open.discard(task.task_id)
        for task in self.tasks.values():
            task.trained = [(rows, step) for rows, step in task.trained if step <= version]
            self._refresh(task)
        self._sum_up()
        dropped = sum(int(task.trainable.sum()) for task in late)
        self.rows_dropped += dropped
        return dropped

    def give_up(self, task_ids: Iterable[int]) -> int:
        """Their remaining rows are never trained. -> rows dropped."""
        dropped = 0
        for task in (self.tasks[task_id] for task_id in task_ids if task_id in self.tasks):
            dropped += len(task.open_rows(self.times_sampled))
            task.given_up = True
            self._refresh(task)
        self.rows_dropped += dropped
        return dropped

    def reclaim(self, task_ids: Iterable[int], step: int) -> None:
        """The segments of these tasks are no more; no checkpoint before `step` will be gone back to."""
        for task_id in task_ids:
            self.gone.add(task_id)
            self.tasks.pop(task_id, None)
        self._sum_up()
        self.reclaimed_step = max(self.reclaimed_step, step)

    def finished(self, task: StoredTask, step: int) -> bool:
        """Whether no checkpoint from `step` on can ask for the task again."""
        return task.task_id not in self._open and all(trained <= step for _, trained in task.trained)

    def _sum_up(self) -> None:
        self.totals = Totals()
        for task in self.tasks.values():
            self.totals.add(task)
            for rows, step in task.trained:
                self.totals.use(task, len(rows), step)

    def _refresh(self, task: StoredTask) -> None:
        if len(task.open_rows(self.times_sampled)):
            self._open.add(task.task_id)
        else:
            self._open.discard(task.task_id)


def rebuild(index: ReplayIndex, found: Sequence[StoredTask], records: Sequence[Record]) -> None:
    """Makes the index of a directory: the tasks found in its segments, and its log.

    A recovery concerns what was inserted before it; everything between two recoveries concerns tasks that were
    inserted before the second one. So the tasks enter in that order too, and a task that was dropped and stored again
    is never mistaken for its earlier self.
    """
    waiting = sorted(found, key=lambda task: task.insert_order)
    borders = [i for i, record in enumerate(records) if record["kind"] == "recover"] + [len(records)]
    start = 0
    for border in borders:
        before = records[border]["before"] if border < len(records) else None
        while waiting and (before is None or waiting[0].insert_order < before):
            index.add(waiting.pop(0))
        for record in records[start : border + 1]:
            _apply(index, record)
        start = border + 1


def _apply(index: ReplayIndex, record: Record) -> None:
    match record["kind"]:
        case "commit":
            index.commit(rows_of(record), record["step"])
        case "recover":
            index.recover(record["version"])
        case "drop":
            index.give_up(record["tasks"])
        case "reclaim":
            index.reclaim(record["tasks"], record["step"])


def rows_of(record: Record) -> dict[int, np.ndarray]:
    """The rows of a commit record, by task."""
    spans: dict[int, list[np.ndarray]] = {}
    for task_id, first, last in record["rows"]:
        spans.setdefault(task_id, []).append(np.arange(first, last + 1))
    return {task_id: np.concatenate(parts) for task_id, parts in spans.items()}


def stored_task(batch: pa.RecordBatch, segment: str, offset_bytes: int) -> StoredTask:
    """The index entry of a record batch."""
    task_id, order, version = (batch.column(name)[0].as_py() for name in ("task_id", "insert_order", "policy_version"))
    sampling = schema.sampling_of(batch)
    return StoredTask(task_id, order, version, sampling, schema.trainable_rows(batch), segment, offset_bytes)
