"""Model-based test of the replay store: inserts, steps, crashes, torn files and recoveries in any order, and still
every acknowledged row that has a reward is trained exactly once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.replay import ReplayStore
from actors.replay_table import read_rows
from actors.rows import row_ids
from cluster.errors import RunFailed
from tests.actors.rollouts import scored

ROWS = 3
BYTES_OF_A_TASK = 1500  # roughly; a segment holds two tasks


class ReplayMachine(RuleBasedStateMachine):
    """`held`: task -> (version, trainable rows); `trained`: row id -> step, of rows that count as trained."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))  # cheap fsync
        self.epochs = 0
        self.version = 0
        self.checkpoints = [0]
        self.held: dict[int, tuple[int, frozenset[int]]] = {}
        self.trained: dict[int, int] = {}
        self.dropped = 0

    @initialize(tasks_of_room=st.sampled_from([10, 1000]))
    def opens(self, tasks_of_room: int) -> None:
        self.max_bytes = tasks_of_room * BYTES_OF_A_TASK
        self.open()

    def open(self) -> None:
        self.epoch = f"epoch-{self.epochs}"
        self.store = ReplayStore(self.directory, self.epoch, max_bytes=self.max_bytes, segment_rows=2 * ROWS)
        self.epochs += 1

    @rule(task=st.integers(0, 12), lag=st.integers(0, 2), missing=st.sets(st.integers(0, ROWS - 1)))
    def inserts(self, task: int, lag: int, missing: set[int]) -> None:
        version = max(0, self.version - lag)
        item = scored(task, version, ROWS, epoch=self.epoch, missing=tuple(missing))
        try:
            receipt = self.store.insert(item)
        except RunFailed:
            assert task not in self.held
            assert self.store.bytes_stored() + 3 * BYTES_OF_A_TASK > self.max_bytes
            return
        assert receipt.duplicate == (task in self.held)
        if not receipt.duplicate:
            self.held[task] = (version, frozenset(range(ROWS)) - missing)
            assert receipt.trainable_rows == ROWS - len(missing)

    @rule()
    def refuses_an_orphan(self) -> None:
        receipt = self.store.insert(scored(99, self.version, ROWS, epoch="an earlier one"))
        assert receipt.refused_reason and not receipt.accepted_rows

    @rule(rows=st.integers(1, 2 * ROWS), lost_reply=st.booleans())
    def steps(self, rows: int, lost_reply: bool) -> None:
        batch = self.store.sample(rows=rows, learner_version=self.version)
        waiting = self.waiting()
        assert (batch is None) == (len(waiting) < rows)
        if batch is None:
            return
        assert set(batch.row_ids.tolist()) <= waiting
        assert list(batch.row_ids) == sorted(batch.row_ids)
        self.check_contents(batch)
        self.version += 1
        self.store.commit(batch.row_ids, self.version)
        if lost_reply:
            self.store.commit(batch.row_ids, self.version)
        self.trained |= dict.fromkeys(batch.row_ids.tolist(), self.version)

    @rule(rows=st.integers(1, ROWS))
    def samples_the_same_again_after_a_crash(self, rows: int) -> None:
        before = self.store.sample(rows=rows)
        self.crashes(torn_segment=b"", torn_log=b"")
        after = self.store.sample(rows=rows)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert before.row_ids.tolist() == after.row_ids.tolist()

    @rule()
    def checkpoints_and_reclaims(self) -> None:
        self.checkpoints = [*self.checkpoints, self.version][-2:]
        self.store.reclaim(self.checkpoints[0])

    @rule(torn_segment=st.binary(max_size=40), torn_log=st.binary(max_size=40))
    def crashes(self, torn_segment: bytes, torn_log: bytes) -> None:
        """kill -9 in the middle of a write: the store is opened again on files with a torn end."""
        segments = sorted(self.directory.glob("segment_*"))
        if segments:
            with open(segments[-1], "ab") as file:
                file.write(torn_segment)
        with open(self.directory / "log.jsonl", "ab") as file:
            file.write(torn_log)
        self.open()

    @rule(cut=st.floats(0.0, 0.999), task=st.integers(20, 30))
    def crashes_within_an_insert(self, cut: float, task: int) -> None:
        """What reached the disk of an unacknowledged insert is a prefix of it; it may be stored again afterwards."""
        sizes = {path: path.stat().st_size for path in self.directory.glob("segment_*")}
        try:
            if self.store.insert(scored(task, self.version, ROWS, epoch=self.epoch)).duplicate:
                return
        except RunFailed:
            return
        for path in self.directory.glob("segment_*"):
            old, new = sizes.get(path, 0), path.stat().st_size
            with open(path, "r+b") as file:
                file.truncate(old + int(cut * (new - old)))
        self.open()

    @rule(data=st.data())
    def goes_back_to_a_checkpoint(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(self.checkpoints))
        self.open()
        self.store.recover(version)
        self.version = version
        self.checkpoints = [n for n in self.checkpoints if n <= version]
        self.held = {task: held for task, held in self.held.items() if held[0] <= version}
        kept = {int(i) for task, (_, rows) in self.held.items() for i in row_ids(task, sorted(rows))}
        self.trained = {i: step for i, step in self.trained.items() if step <= version and i in kept}

    @invariant()
    def rows_that_wait_are_those_of_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {
            int(row_id)
            for task, (count, _) in self.store.available_tasks().items()
            for row_id in self.store.sample(rows=count, task_ids=[task]).row_ids  # type: ignore[union-attr]
        }
        assert found == self.waiting()
        assert set(self.store.stored_tasks()) == set(self.held)

    def teardown(self) -> None:
        """Trains what is left: then every row was trained once, also by the files' own account."""
        if hasattr(self, "store"):
            while waiting := len(self.waiting()):
                self.steps(min(waiting, ROWS), lost_reply=False)
            table = read_rows(self.directory)
            live = [row for row in table.to_pylist() if not row["dropped"]]
            for row in live:
                assert row["trained_step"] == self.trained.get(row["row_id"])
            assert len({row["row_id"] for row in live}) == len(live)
        shutil.rmtree(self.directory)

    def waiting(self) -> set[int]:
        rows = {int(i) for task, (_, free) in self.held.items() for i in row_ids(task, sorted(free))}
        return rows - self.trained.keys()

    def check_contents(self, batch) -> None:
        for index, (row_id, task_id) in enumerate(zip(batch.row_ids, batch.task_ids, strict=True)):
            version, row = self.held[int(task_id)][0], int(row_id) % (1 << 16)
            expected = scored(int(task_id), version, ROWS)
            assert batch.policy_versions[index] == version
            assert np.array_equal(batch.codes[index], expected.codes[row])
            assert np.array_equal(batch.log_probs[index], expected.log_probs[row])
            assert batch.rewards[index] == expected.reward[row]


TestReplayMachine = ReplayMachine.TestCase
TestReplayMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
