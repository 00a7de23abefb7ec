"""How many generators and scorers a run should have: from the time ledger, bounded by the slowest stage.

A step needs d_r seconds of work of each elastic role r, which n_r members do in d_r / n_r; the learner, of which there
is one, needs T_l. No step can be shorter than

    T = max( T_l, max_r d_r / most_r )                                                                          (1)

the time of the slowest stage once every role has all the members it may have. Role r keeps up with that from

    load_r = d_r / T                                                                                            (2)

members on. More would stand idle, fewer make everybody wait. A role with fewer than load_r members, or with more than
TOLERATED * load_r, is given AIM * load_r: between the two nothing changes, so that noise does not move it. All times
are medians over the last steps; a change takes several steps in a row that ask for it, and then a time to rest. Where
actors were asked for and did not come, the next attempt waits longer.

Pure: no clock, no I/O; the caller says what happened and when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

WINDOW = 5  # steps that the medians are taken over
AIM, TOLERATED = 1.15, 1.4  # members per load
GROW_STEPS, SHRINK_STEPS = 2, 5  # in a row that must ask for a change
LONGEST_BACK_OFF = 8  # rests after which a role that got no room is asked for again, at most


@dataclass(frozen=True)
class Bounds:
    """Members that a role may have."""

    least: int
    most: int

    def clip(self, members: int) -> int:
        return max(self.least, min(self.most, members))


@dataclass(frozen=True)
class StepTime:
    """One learner step. learner_s: seconds that only the learner can give. work_s: seconds of work, by elastic role."""

    learner_s: float
    work_s: Mapping[str, float]


@dataclass(frozen=True)
class Resize:
    """A role should have so many members from now on, and why."""

    role: str
    size: int
    reason: str


@dataclass
class _Role:
    bounds: Bounds
    asks: int = 0  # steps in a row that asked for more (positive) or fewer (negative)
    rests_until_s: float = -math.inf
    refusals: int = 0  # times in a row that actors did not come


class Sizer:
    """bounds: by role; roles whose bounds are equal never change. rest_s: between two changes of one role."""

    def __init__(self, bounds: Mapping[str, Bounds], rest_s: float) -> None:
        self._roles = {role: _Role(bound) for role, bound in bounds.items()}
        self._rest_s = rest_s
        self._steps: deque[StepTime] = deque(maxlen=WINDOW)

    def floor(self) -> tuple[float, str]:
        """Equation (1), in seconds, and the role whose time it is; (0, "") before the first step."""
        if not self._steps:
            return 0.0, ""
        times = {role: self._work_s(role) / each.bounds.most for role, each in self._roles.items()}
        times["learner"] = median(step.learner_s for step in self._steps)
        slowest = max(times, key=times.__getitem__)
        return times[slowest], slowest

    def loads(self) -> dict[str, float]:
        """Equation (2), by role; empty before the first step."""
        floor_s = max(self.floor()[0], 1e-9)
        return {role: self._work_s(role) / floor_s for role in self._roles} if self._steps else {}

    def stepped(self, step: StepTime, sizes: Mapping[str, int]) -> None:
        """A learner step is done; `sizes`: members by role."""
        self._steps.append(step)
        for role, load in self.loads().items():
            wanted = self._roles[role].bounds.clip(wanted_members(load, sizes[role]))
            self._roles[role].asks = _counted(self._roles[role].asks, wanted - sizes[role])

    def refused(self, role: str, now_s: float) -> None:
        """Actors that were asked for did not come: no room in the cluster, or a node that may not join."""
        state = self._roles[role]
        rests = min(2**state.refusals, LONGEST_BACK_OFF)
        state.refusals += 1
        state.asks, state.rests_until_s = 0, now_s + rests * self._rest_s

    def joined(self, role: str) -> None:
        """Actors that were asked for came."""
        self._roles[role].refusals = 0

    def decide(self, now_s: float, sizes: Mapping[str, int], work: Mapping[str, bool]) -> list[Resize]:
        """What should change now. work: whether a role has anything left to do, now or later in this run."""
        found = [self._decide(role, now_s, sizes, work[role]) for role in self._roles]
        return [resize for resize in found if resize is not None]

    def _decide(self, role: str, now_s: float, sizes: Mapping[str, int], work: bool) -> Resize | None:
        state, size = self._roles[role], sizes[role]
        if not work:
            return Resize(role, state.bounds.least, "no work is left for them") if size > state.bounds.least else None
        if now_s < state.rests_until_s:
            return None
        if size == 0:
            return self._change(role, Resize(role, 1, "work waits, and nobody is there"), now_s)
        if not -SHRINK_STEPS < state.asks < GROW_STEPS:
            wanted = state.bounds.clip(wanted_members(self.loads()[role], size))
            if wanted != size:
                return self._change(role, Resize(role, wanted, self._reason(role)), now_s)
        return None

    def _change(self, role: str, resize: Resize, now_s: float) -> Resize:
        state = self._roles[role]
        state.asks, state.rests_until_s = 0, now_s + self._rest_s
        return resize

    def _reason(self, role: str) -> str:
        floor_s, slowest = self.floor()
        return f"a step needs {self._work_s(role):.2f} s of their work, the slowest stage ({slowest}) {floor_s:.2f} s"

    def _work_s(self, role: str) -> float:
        return median(step.work_s[role] for step in self._steps)


def wanted_members(load: float, size: int) -> int:
    """Members for a load, from `size` on: the same number where that is within the band."""
    keeps_up, tolerated = math.ceil(load), max(1, math.ceil(TOLERATED * load))
    return size if keeps_up <= size <= tolerated else max(1, math.ceil(AIM * load))


def _counted(asks: int, change: int) -> int:
    """Steps in a row in one direction."""
    if change == 0:
        return 0
    same = (change > 0) == (asks > 0)
    return (asks if same else 0) + (1 if change > 0 else -1)
