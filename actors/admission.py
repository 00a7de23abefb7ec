"""Admission control: how much work may start, and when the learner may take a batch, so that staleness is bounded.

Notation: B rows a batch, S the bound in versions, v the learner's version, w the version a row was sampled with.
A row is *outstanding* while it is in flight (being sampled or scored) or available (stored, not yet consumed).
The batch of step v consumes rows with v - w <= S, so a row of version w has to be consumed in one of the steps
v..w + S, and all outstanding rows can still be consumed in time if and only if (earliest deadline first)

    for every d >= v:   #{outstanding rows with w + S <= d}  <=  (d - v + 1) B                              (1)

Both gates keep (1) true, which makes the bound exact and rules out a deadlock: when nothing is in flight, either a
batch is ready or there is room for another task.

 - capacity(v): the rows of the newest version that may start without breaking (1). With every row of the past
   consumed in full batches this is the familiar  (S + v + 1) B - in flight - stored in all.
 - consumable(v): the learner may take the B oldest available rows if (1) holds for v + 1 afterwards. A slow task may
   therefore be overtaken as long as it still can be consumed in time, and is waited for when it cannot.

S = 0 is the synchronous, on-policy order. Pure: no clock, no I/O; the caller says what happened.
Source of the capacity: AReaL (arXiv 2505.24298), section 5.1; the deadlines make it hold for any order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outstanding:
    """Rows of one task that were admitted and not yet consumed."""

    rows: int
    version: int


class Admission:
    """Counts rows by task. `unit_rows` is the smallest task that makes sense (sampling.group_size)."""

    def __init__(self, batch_size: int, max_staleness: int, unit_rows: int = 1, steps: int | None = None) -> None:
        if not 1 <= unit_rows <= batch_size:
            raise ValueError(f"unit_rows: got {unit_rows}, allowed 1..batch_size ({batch_size})")
        if max_staleness < 0:
            raise ValueError(f"max_staleness: got {max_staleness}, allowed 0 or more")
        self._batch = batch_size
        self._bound = max_staleness
        self._unit = unit_rows
        self._steps = steps  # the learner's last version: no more rows are admitted than it will consume
        self._in_flight: dict[int, Outstanding] = {}
        self._available: dict[int, Outstanding] = {}

    @property
    def bound(self) -> int:
        """Largest staleness, in versions."""
        return self._bound

    @property
    def rows_in_flight(self) -> int:
        return sum(task.rows for task in self._in_flight.values())

    @property
    def rows_available(self) -> int:
        return sum(task.rows for task in self._available.values())

    @property
    def tasks_in_flight(self) -> tuple[int, ...]:
        return tuple(self._in_flight)

    def rows_to_come(self, version: int) -> int | None:
        """Rows that the learner will still ask for beyond the outstanding ones; None: without end."""
        if self._steps is None:
            return None
        outstanding = self.rows_in_flight + self.rows_available
        return max(0, (self._steps - version) * self._batch - outstanding)

    def capacity(self, version: int, weights_version: int | None = None) -> int:
        """Rows that may start now, the learner being at `version`.

        weights_version: what the generators sample with, where that lags behind the learner (default: no lag).
        """
        sampled = version if weights_version is None else weights_version
        if sampled + self._bound < version:
            return 0
        held = self._by_version()
        deadlines = range(sampled + self._bound, version + self._bound + 1)
        room = [self._slack(held, version, deadline) for deadline in deadlines]
        if self._steps is not None:
            room.append((self._steps - version) * self._batch - held.total())
        return max(0, min(room))

    def admit(self, task_id: int, rows: int, version: int, weights_version: int | None = None) -> None:
        """A task starts. Raises ValueError beyond the capacity or for a task that is already known."""
        if task_id in self._in_flight or task_id in self._available:
            raise ValueError(f"task {task_id} was admitted before")
        if rows > self.capacity(version, weights_version):
            raise ValueError(f"task {task_id}: {rows} rows, room for {self.capacity(version, weights_version)}")
        self._in_flight[task_id] = Outstanding(rows, version if weights_version is None else weights_version)

    def stored(self, task_id: int, rows: int, policy_version: int) -> None:
        """A task arrived with `rows` trainable rows (fewer than admitted where a score is missing: that room is free).

        Raises ValueError when it was sampled with older weights than it was admitted for.
        """
        admitted = self._in_flight[task_id]
        if policy_version < admitted.version or rows > admitted.rows:
            raise ValueError(f"task {task_id}: stored {rows} rows of version {policy_version}, admitted {admitted}")
        del self._in_flight[task_id]
        if rows:
            self._available[task_id] = Outstanding(rows, policy_version)

    def dropped(self, task_id: int) -> None:
        """A task will not arrive: its room is free again."""
        del self._in_flight[task_id]

    def consumable(self, version: int) -> int:
        """Rows the learner should take for step `version`, oldest version first; 0: wait.

        Fewer than a batch only when nothing is in flight and no further task fits (rows were lost on the way).
        """
        available = self._by_version(self._available.values())
        if available.total() < self._batch:
            stuck = not self._in_flight and self.capacity(version) < self._unit
            return available.total() if stuck else 0
        left = self._by_version() - _oldest(available, self._batch)
        in_time = all(self._slack(left, version + 1, d) >= 0 for d in range(version, version + self._bound + 1))
        return self._batch if in_time else 0

    def consumed(self, version: int, task_ids: Sequence[int]) -> None:
        """The learner took a batch at `version`; `task_ids` has one entry per row (TrainingBatch.task_ids)."""
        for task_id, rows in Counter(int(task) for task in task_ids).items():
            held = self._available[task_id]
            if rows > held.rows or version - held.version > self._bound:
                raise ValueError(f"task {task_id}: {rows} rows consumed at version {version}, held {held}")
            del self._available[task_id]
            if rows < held.rows:
                self._available[task_id] = Outstanding(held.rows - rows, held.version)

    def rebase(self, version: int, available: Mapping[int, tuple[int, int]]) -> tuple[int, ...]:
        """Starts again from what the replay store holds: task -> (rows, policy version); nothing is in flight.

        -> tasks that cannot be consumed in time any more (the bound or the batch shrank between two runs): the caller
        drops them from the store.
        """
        self._in_flight = {}
        self._available = {task: Outstanding(*held) for task, held in available.items()}
        late: list[int] = []
        for task in sorted(self._available, key=lambda t: (self._available[t].version, t)):
            if any(self._slack(self._by_version(), version, d) < 0 for d in self._deadlines(version)):
                late.append(task)
                del self._available[task]
        return tuple(late)

    def _deadlines(self, version: int) -> range:
        oldest = min((task.version for task in self._available.values()), default=version)
        return range(min(version - 1, oldest + self._bound), version + self._bound + 1)

    def _slack(self, held: Counter[int], version: int, deadline: int) -> int:
        """Right side of (1) minus its left side."""
        due = sum(rows for sampled, rows in held.items() if sampled + self._bound <= deadline)
        return max(0, deadline - version + 1) * self._batch - due

    def _by_version(self, tasks: Collection[Outstanding] | None = None) -> Counter[int]:
        counted: Counter[int] = Counter()
        for task in tasks if tasks is not None else [*self._in_flight.values(), *self._available.values()]:
            counted[task.version] += task.rows
        return counted


def _oldest(available: Counter[int], rows: int) -> Counter[int]:
    """The `rows` oldest of the available ones, counted by version."""
    taken: Counter[int] = Counter()
    for version in sorted(available):
        taken[version] = min(available[version], rows - taken.total())
    return taken
