"""The replay store: what was sampled and scored, on disk, until the learner has trained on it.

Reverb's vocabulary: one *table*; the *sampler* takes the rows with the oldest weights first; *times sampled* is 1, so a
row is trained once; the *remover* takes whole segments that no checkpoint can ask for again; the *rate limiter* is
admission control (actors.admission), which stands before the generators and not before the store.

Promises
 - An insert is acknowledged when it is durable; a second insert of a task changes nothing and says so.
 - `sample` changes nothing: until rows are committed, the same question has the same answer, also after a crash.
 - A row is committed `times_sampled` times and then never sampled again.
 - The constructor reads the directory, so the store survives `kill -9` at any moment.
 - Only the newest owner of a directory writes to it: an orphan of an earlier one is refused.

`step` is always the version that a learner step leads to: at version v, the learner samples, trains, and commits
with step v + 1. Rows train in batches ordered by (task_id, row), whatever order they arrived in.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors import rows as schema
from actors.records import Rollout, ScoredRollout, TrainingBatch
from actors.replay_index import ReplayIndex, StoredTask, rebuild, rows_of, stored_task
from actors.replay_log import LOG, ReplayLog, to_ranges
from actors.segments import SegmentFolder
from cluster.errors import RunFailed
from cluster.storage import sync
from rewards.port import ScoreTable

OWNER = "owner.json"


@dataclass(frozen=True)
class InsertReceipt:
    """What became of an insert. Of a duplicate, rows and version are those of the task as it is stored."""

    accepted_rows: int  # written now: 0 for a duplicate or a refusal
    trainable_rows: int  # rows of the stored task that may be trained
    policy_version: int
    duplicate: bool = False
    refused_reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class ReplayStore:
    """One directory of segments and a log."""

    def __init__(
        self,
        directory: str | Path,
        epoch: str,
        max_bytes: int = 2_000_000_000,
        segment_rows: int = 512,
        times_sampled: int = 1,
    ) -> None:
        self._directory = Path(directory)
        self._epoch = epoch
        self._max_bytes = max_bytes
        self._counts = dict.fromkeys(("inserted", "duplicate", "refused", "cut_bytes", "damaged_tasks"), 0)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._take_ownership()
        self._log = ReplayLog(self._directory / LOG)
        self._segments = SegmentFolder(self._directory, segment_rows, retired=self._finish_reclaiming())
        self._counts["cut_bytes"] = self._log.cut_bytes + self._segments.cut_bytes
        found = self._undamaged()
        self._index = ReplayIndex(times_sampled)
        rebuild(self._index, found, self._log.records)
        orders = [r["before"] for r in self._log.records if r["kind"] == "recover"]
        self._next_order = max([0, *orders, *(task.insert_order + 1 for task in found)])

    # --- writing -----------------------------------------------------------------------------------------------

    def insert(self, scored: ScoredRollout) -> InsertReceipt:
        """Stores one task; durable on return.

        Raises ValueError for a malformed rollout, RunFailed when there is no room or the disk fails.
        """
        schema.check_shapes(scored)
        refused = self._refusal(scored)
        if refused:
            self._counts["refused"] += 1
            return InsertReceipt(0, 0, scored.policy_version, refused_reason=refused, seconds=scored.seconds)
        task_id = scored.task.task_id
        if task_id in self._index.gone or task_id in self._index.tasks:
            self._counts["duplicate"] += 1
            return self._duplicate(scored)
        task = self._append(scored)
        self._index.add(task)
        self._counts["inserted"] += len(task.trainable)
        trainable = int(task.trainable.sum())
        return InsertReceipt(len(task.trainable), trainable, task.policy_version, seconds=scored.seconds)

    def insert_rollout(self, rollout: Rollout, scores: ScoreTable, reward: np.ndarray) -> InsertReceipt:
        """`insert` of a rollout that comes straight from a generator (by object reference), with its scores."""
        seconds = {**rollout.seconds, "score": sum(scores.seconds.values())}
        task, epoch, version = rollout.task, rollout.epoch, rollout.policy_version
        return self.insert(
            ScoredRollout(task, epoch, version, rollout.codes, rollout.log_probs, scores, reward, seconds)
        )

    def commit(self, row_ids: Sequence[int] | np.ndarray, step: int) -> None:
        """Rows were trained in `step`; durable on return. Saying it twice is saying it once.

        Raises ValueError for rows that are unknown, may not be trained, or were trained before.
        """
        self._check_owner()
        ranges = to_ranges(row_ids)
        rows = rows_of({"rows": ranges})
        if all(self._is_committed(task_id, picked, step) for task_id, picked in rows.items()):
            return
        for task_id, picked in rows.items():
            self._check_commit(task_id, picked, step)
        self._append_log({"kind": "commit", "step": int(step), "rows": ranges})
        self._index.commit(rows, step)

    def drop(self, task_ids: Sequence[int], reason: str) -> int:
        """Gives up the remaining rows of tasks, durably. -> rows dropped."""
        self._check_owner()
        self._append_log({"kind": "drop", "tasks": [int(t) for t in task_ids], "reason": reason})
        return self._index.give_up(task_ids)

    def recover(self, version: int) -> int:
        """Goes back to the checkpoint of `version`: rows of later weights are dropped, rows trained in later steps wait
        again. -> rows dropped. Raises RunFailed when rows that this checkpoint needs were reclaimed."""
        self._check_owner()
        if version < self._index.reclaimed_step:
            step = self._index.reclaimed_step
            raise RunFailed(f"replay: rows before step {step} were reclaimed, cannot go back to version {version}")
        self._append_log({"kind": "recover", "version": int(version), "before": self._next_order})
        return self._index.recover(version)

    def reclaim(self, before_step: int) -> int:
        """No checkpoint before `before_step` will be gone back to: the oldest segments whose rows were all trained by
        then are deleted, until the store is at half of `max_bytes` (so that a run's rows stay for study while there is
        room). -> bytes freed."""
        self._check_owner()
        freed, removed = 0, []
        for name in self._segments.names[:-1]:  # never the last: it is still written to
            finished = all(self._index.finished(task, before_step) for task in self._tasks_of(name))
            if finished and self.bytes_stored() - freed > self._max_bytes // 2:
                freed += self._segments.size_bytes(name)
                removed.append(name)
        if removed:
            self._remove(removed, before_step)
        return freed

    # --- reading -----------------------------------------------------------------------------------------------

    def sample(
        self, rows: int | None = None, task_ids: Sequence[int] | None = None, learner_version: int | None = None
    ) -> TrainingBatch | None:
        """The next batch, or None where there is not enough yet. Changes nothing.

        rows: so many, those with the oldest weights first; None: all that wait. task_ids: of these tasks only, and not
        before all of them are stored. learner_version: refuses rows of newer weights (they cannot be: a fencing check).
        Raises RunFailed when the tasks asked for hold not one row that can be trained.
        """
        waiting = self._index.waiting()
        if task_ids is not None:
            wanted = {int(task_id) for task_id in task_ids}
            if not wanted <= self._index.tasks.keys():
                return None
            waiting = [(task, free) for task, free in waiting if task.task_id in wanted]
            if not waiting:
                raise RunFailed(f"replay: no row of the {len(wanted)} tasks of this step has a reward")
        waiting = [pair for pair in waiting if pair[0].sampling == waiting[0][0].sampling]
        picked = _take(waiting, rows)
        if not picked or (rows is not None and sum(len(free) for _, free in picked) < rows):
            return None
        newest = max(task.policy_version for task, _ in picked)
        if learner_version is not None and newest > learner_version:
            raise RunFailed(f"replay: rows of version {newest} for a learner of version {learner_version}")
        picked.sort(key=lambda pair: pair[0].task_id)
        return schema.decode([(self._segments.read(task.segment, task.offset_bytes), free) for task, free in picked])

    def stored_tasks(self) -> list[int]:
        """Tasks that need not be sampled again, ascending."""
        return sorted(self._index.tasks.keys() | self._index.gone)

    def available_tasks(self) -> dict[int, tuple[int, int]]:
        """Task -> (rows that wait, policy version): what admission control is re-based on."""
        return {task.task_id: (len(free), task.policy_version) for task, free in self._index.waiting()}

    def losses(self, task_ids: Sequence[int]) -> tuple[int, int]:
        """-> rows of these stored tasks that cannot be trained, scores that are missing in them."""
        tasks = [self._index.tasks[task_id] for task_id in task_ids if task_id in self._index.tasks]
        untrainable = sum(int((~task.trainable).sum()) for task in tasks)
        batches = (self._segments.read(task.segment, task.offset_bytes) for task in tasks)
        return untrainable, sum(schema.missing_scores(batch) for batch in batches)

    def bytes_stored(self) -> int:
        return self._segments.size_bytes()

    def stats(self) -> dict[str, float]:
        """What happened since this store was opened (inserted, duplicate, refused, damaged, cut), then the state of the
        rows on disk. Staleness in versions, over all uses in training."""
        totals = self._index.totals
        return {
            "rows_inserted": self._counts["inserted"],
            "tasks_duplicate": self._counts["duplicate"],
            "tasks_refused": self._counts["refused"],
            "tasks_damaged": self._counts["damaged_tasks"],
            "bytes_cut": self._counts["cut_bytes"],
            "rows_stored": totals.rows,
            "rows_available": sum(len(free) for _, free in self._index.waiting()),
            "rows_untrainable": totals.untrainable,
            "rows_trained": totals.uses,
            "rows_dropped": self._index.rows_dropped,
            "bytes": self.bytes_stored(),
            "segments": len(self._segments.names),
            "staleness_mean": totals.staleness / max(1, totals.uses),
            "staleness_max": totals.staleness_max,
        }

    # --- inside ------------------------------------------------------------------------------------------------

    def _refusal(self, scored: ScoredRollout) -> str:
        if scored.epoch != self._epoch:
            return f"epoch: got {scored.epoch}, allowed {self._epoch}"
        if not self._owned():
            return "this store was replaced by a newer one"
        shape = schema.shape_of(self._segments.schema) if self._segments.schema else None
        if shape is not None and shape != scored.codes.shape[1:]:
            return f"codes: got [K, T] = {list(scored.codes.shape[1:])}, allowed {list(shape)}"
        return ""

    def _duplicate(self, scored: ScoredRollout) -> InsertReceipt:
        stored = self._index.tasks.get(scored.task.task_id)
        if stored is None:  # trained and reclaimed
            return InsertReceipt(0, 0, scored.policy_version, duplicate=True, seconds=scored.seconds)
        trainable = int(stored.trainable.sum())
        return InsertReceipt(0, trainable, stored.policy_version, duplicate=True, seconds=scored.seconds)

    def _append(self, scored: ScoredRollout) -> StoredTask:
        batch = schema.encode(scored, self._next_order)
        if self.bytes_stored() + pa.ipc.get_record_batch_size(batch) > self._max_bytes:
            raise RunFailed(f"replay.max_bytes: {self._max_bytes} are full and no trained segment can be reclaimed")
        try:
            segment, offset = self._segments.append(batch)
        except OSError as error:
            raise RunFailed(f"replay: cannot write to {self._directory}: {error.strerror or error}") from error
        self._next_order += 1
        return stored_task(batch, segment, offset)

    def _undamaged(self) -> list[StoredTask]:
        """Every task on disk whose rows are what was written."""
        tasks: list[StoredTask] = []
        for name, found in self._segments.found.items():
            whole = [each for each in found if schema.intact(each.batch)]
            self._counts["damaged_tasks"] += len(found) - len(whole)
            tasks += [stored_task(each.batch, name, each.offset_bytes) for each in whole]
        return tasks

    def _is_committed(self, task_id: int, rows: np.ndarray, step: int) -> bool:
        task = self._index.tasks.get(task_id)
        return task_id in self._index.gone if task is None else set(rows) <= set(task.trained_in(step))

    def _check_commit(self, task_id: int, rows: np.ndarray, step: int) -> None:
        task = self._index.tasks.get(task_id)
        free = task.open_rows(self._index.times_sampled).tolist() if task is not None else []
        refused = sorted(set(rows.tolist()) - set(free))
        if task is None or refused:
            raise ValueError(f"commit of task {task_id}: rows {refused} do not wait to be trained")
        if step <= task.policy_version:
            raise ValueError(f"commit of task {task_id}: step {step} for rows of version {task.policy_version}")

    def _tasks_of(self, segment: str) -> Iterable[StoredTask]:
        return (task for task in self._index.tasks.values() if task.segment == segment)

    def _remove(self, names: Sequence[str], step: int) -> None:
        tasks = [task.task_id for name in names for task in self._tasks_of(name)]
        self._append_log({"kind": "reclaim", "segments": list(names), "tasks": tasks, "step": int(step)})
        self._index.reclaim(tasks, step)
        for name in names:
            self._segments.delete(name)

    def _finish_reclaiming(self) -> list[str]:
        """Deletes what a reclaim that was cut short left behind. -> names of every segment that was reclaimed."""
        names = [name for r in self._log.records if r["kind"] == "reclaim" for name in r["segments"]]
        for name in names:
            (self._directory / name).unlink(missing_ok=True)
        return names

    def _append_log(self, record: dict) -> None:
        try:
            self._log.append(record)
        except OSError as error:
            raise RunFailed(f"replay: cannot write to {self._directory}: {error.strerror or error}") from error

    def _take_ownership(self) -> None:
        self._token = uuid.uuid4().hex
        fresh = self._directory / f"{OWNER}.{self._token}"
        fresh.write_text(json.dumps({"epoch": self._epoch, "token": self._token, "pid": os.getpid()}))
        os.replace(fresh, self._directory / OWNER)
        sync(self._directory)

    def _owned(self) -> bool:
        try:
            return json.loads((self._directory / OWNER).read_text())["token"] == self._token
        except FileNotFoundError:
            return False

    def _check_owner(self) -> None:
        if not self._owned():
            raise RunFailed("replay: this store was replaced by a newer one")


def _take(waiting: Sequence[tuple[StoredTask, np.ndarray]], rows: int | None) -> list[tuple[StoredTask, np.ndarray]]:
    """The first `rows` rows of tasks in the order given."""
    picked: list[tuple[StoredTask, np.ndarray]] = []
    left = rows
    for task, free in waiting:
        if left is not None and left <= 0:
            break
        picked.append((task, free if left is None else free[:left]))
        left = None if left is None else left - len(picked[-1][1])
    return picked
