"""Admission control: the bound on staleness holds for any order, delay and loss, and the pipeline never gets stuck."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.admission import Admission


class Pipeline:
    """A simulated run: tasks finish in any order, arrive with fewer rows or not at all; generators lag behind."""

    def __init__(self, seed: int, batch: int, unit: int, bound: int, steps: int) -> None:
        self.random = random.Random(seed)
        self.admission = Admission(batch, bound, unit, steps)
        self.batch, self.unit, self.bound, self.steps = batch, unit, bound, steps
        self.version = self.weights = 0
        self.tasks = 0
        self.in_flight: dict[int, tuple[int, int]] = {}
        self.available: dict[int, list[int]] = {}  # task -> [rows, version]
        self.staleness: list[int] = []
        self.lost = 0
        self.sizes: list[int] = []

    def run(self) -> None:
        idle = 0
        while self.version < self.steps:
            moves = [self.start, self.finish, self.learn, self.activate]
            self.random.shuffle(moves)
            moved = [move() for move in moves]
            idle = 0 if any(moved) else idle + 1
            assert idle < 50, f"stuck at {self.version}: {self.in_flight} {self.available}"

    def start(self) -> bool:
        room = self.admission.capacity(self.version, self.weights)
        if room < self.unit or self.random.random() < 0.2:
            return False
        rows = min(room, self.random.randint(1, 3) * self.unit) // self.unit * self.unit
        self.admission.admit(self.tasks, rows, self.version, self.weights)
        self.in_flight[self.tasks] = (rows, self.weights)
        self.tasks += 1
        return True

    def finish(self) -> bool:
        if not self.in_flight or self.random.random() < 0.3:
            return False
        task = self.random.choice(list(self.in_flight))
        rows, version = self.in_flight.pop(task)
        if self.random.random() < 0.1:
            self.admission.dropped(task)
            self.lost += rows
            return True
        arrived = rows if self.random.random() < 0.8 else self.random.randint(0, rows)
        self.lost += rows - arrived
        version = self.random.randint(version, self.weights)  # a retry elsewhere may use newer weights
        self.admission.stored(task, arrived, version)
        if arrived:
            self.available[task] = [arrived, version]
        return True

    def learn(self) -> bool:
        rows = self.admission.consumable(self.version)
        if not rows:
            return False
        taken: list[int] = []
        for task in sorted(self.available, key=lambda t: (self.available[t][1], t)):  # as ReplayStore.sample
            count = min(rows - len(taken), self.available[task][0])
            taken += [task] * count
            self.staleness += [self.version - self.available[task][1]] * count
            self.available[task][0] -= count
        self.available = {task: held for task, held in self.available.items() if held[0]}
        assert len(taken) == rows
        self.admission.consumed(self.version, taken)
        self.sizes.append(rows)
        self.version += 1
        return True

    def activate(self) -> bool:
        if self.weights == self.version or self.random.random() < 0.4:
            return False
        self.weights = self.version
        return True


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 12))
def test_staleness_stays_within_the_bound_and_nothing_gets_stuck(
    seed: int, unit: int, units: int, bound: int, steps: int
) -> None:
    pipeline = Pipeline(seed, unit * units, unit, bound, steps)
    pipeline.run()
    assert max(pipeline.staleness) <= bound
    assert len(pipeline.sizes) == steps
    if not pipeline.lost:
        assert set(pipeline.sizes) == {pipeline.batch}
        assert not pipeline.in_flight and not pipeline.available  # no more was made than was needed


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(0, 3))
def test_a_resumed_pipeline_keeps_the_bound(seed: int, bound: int, later_bound: int) -> None:
    before = Pipeline(seed, 4, 2, bound, steps=6)
    before.run()
    after = Pipeline(seed + 1, 4, 2, later_bound, steps=12)
    after.version = after.weights = before.version
    after.tasks = before.tasks
    held = {task: (rows, version) for task, (rows, version) in before.available.items()}
    held |= {task: (2, max(0, before.version - task % 4)) for task in range(before.tasks, before.tasks + seed % 7)}
    after.tasks += 7
    late = after.admission.rebase(after.version, held)
    after.available = {task: list(kept) for task, kept in held.items() if task not in late}
    after.run()
    assert max(after.staleness) <= later_bound


def test_capacity_is_the_familiar_formula() -> None:
    admission = Admission(batch_size=8, max_staleness=2)
    assert admission.capacity(0) == 24  # (2 + 0 + 1) * 8
    admission.admit(0, 8, 0)
    admission.admit(1, 8, 0)
    assert admission.capacity(0) == 8
    admission.stored(0, 8, 0)
    assert admission.capacity(0) == 8  # stored rows count as well
    assert admission.consumable(0) == 8
    admission.consumed(0, [0] * 8)
    assert admission.capacity(1) == 16  # (2 + 1 + 1) * 8 - 8 in flight - 8 stored in all


def test_synchronous_mode_is_a_bound_of_zero() -> None:
    admission = Admission(batch_size=8, max_staleness=0)
    admission.admit(0, 4, 0)
    admission.admit(1, 4, 0)
    assert admission.capacity(0) == 0
    admission.stored(1, 4, 0)
    assert admission.consumable(0) == 0
    admission.stored(0, 4, 0)
    assert admission.consumable(0) == 8


def test_a_straggler_may_be_overtaken_only_while_it_still_can_be_consumed_in_time() -> None:
    admission = Admission(batch_size=4, max_staleness=1)
    admission.admit(0, 4, 0)  # the slow one
    admission.admit(1, 4, 0)
    admission.stored(1, 4, 0)
    assert admission.consumable(0) == 4
    admission.consumed(0, [1] * 4)
    admission.admit(2, 4, 1)
    admission.stored(2, 4, 1)
    assert admission.consumable(1) == 0  # task 0 would be two versions old
    admission.stored(0, 4, 0)
    assert admission.consumable(1) == 4


def test_lost_rows_make_room_and_a_remainder_is_a_smaller_batch() -> None:
    admission = Admission(batch_size=8, max_staleness=0, unit_rows=4)
    admission.admit(0, 4, 0)
    admission.admit(1, 4, 0)
    admission.dropped(0)
    assert admission.capacity(0) == 4
    admission.admit(2, 4, 0)
    admission.stored(1, 3, 0)  # one clip had no score
    admission.stored(2, 4, 0)
    assert admission.capacity(0) == 1  # too little for a task
    assert admission.consumable(0) == 7


def test_generators_that_lag_get_less_room() -> None:
    admission = Admission(batch_size=4, max_staleness=1)
    assert admission.capacity(1, weights_version=0) == 4  # rows of version 0 must be consumed in step 1
    assert admission.capacity(2, weights_version=0) == 0
    assert admission.capacity(1, weights_version=1) == 8


def test_no_more_is_admitted_than_the_run_consumes() -> None:
    admission = Admission(batch_size=4, max_staleness=3, steps=2)
    assert admission.capacity(0) == 8
    admission.admit(0, 4, 0)
    assert admission.capacity(1) == 0  # one step left, and its rows are on their way


def test_wiring_mistakes_are_refused() -> None:
    admission = Admission(batch_size=4, max_staleness=0)
    with pytest.raises(ValueError, match="room for 4"):
        admission.admit(0, 5, 0)
    admission.admit(0, 4, 0)
    with pytest.raises(ValueError, match="admitted before"):
        admission.admit(0, 4, 0)
    with pytest.raises(ValueError, match="unit_rows"):
        Admission(batch_size=4, max_staleness=0, unit_rows=5)
    newer = Admission(batch_size=4, max_staleness=1)
    newer.admit(0, 4, 3)
    with pytest.raises(ValueError, match="of version 2"):
        newer.stored(0, 4, 2)
