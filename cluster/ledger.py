"""Where the wall clock of a run goes: every moment belongs to exactly one stage, so the stages add up by construction.

Several activities can run at once (one rollout is being scored while another is sampled). The moment then belongs to
the stage that stands furthest downstream, because that is what the run is closest to finishing; with nothing active it
belongs to `start` until the loop has started, and to `other` from then on. What the workers themselves were busy with
is a second account, summed over workers: it may exceed the wall clock, and is what one looks at for utilisation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Upstream to downstream; a later one wins the moment. `wait` is the learner's idle time in asynchronous mode.
STAGES = ("other", "start", "wait", "sample", "decode", "score", "insert", "learn", "publish", "evaluate", "checkpoint")
BUSY_STAGES = ("sample", "decode", "score")
_CURRENT: ContextVar[str] = ContextVar("stage", default="start")  # of the task that asks
_RANK = {stage: rank for rank, stage in enumerate(STAGES)}


def current_stage() -> str:
    """The stage of the run that this task works in, whatever others do at the moment."""
    return _CURRENT.get()


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """What this task does in the body, and what the tasks do that it starts there, is stage `name`."""
    before = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(before)


class Ledger:
    """An exclusive clock over `STAGES`.

    >>> with ledger.stage("learn"): ...
    >>> ledger.close_row()  # {"seconds_learn": …, "seconds_sample": …, …} since the last row
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._idle = "start"
        self._active: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._busy: dict[str, float] = dict.fromkeys(BUSY_STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks an activity of stage `name`; may be nested and may overlap with others."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave(name)

    @property
    def current(self) -> str:
        """The stage that the present moment belongs to."""
        active = (stage for stage, count in self._active.items() if count > 0)
        return max(active, key=_RANK.__getitem__, default=self._idle)

    def started(self) -> None:
        """The run's loop begins."""
        self._charge()
        self._idle = "other"

    def busy(self, stage: str, seconds: float) -> None:
        """Adds what a worker spent on `stage`."""
        self._busy[stage] += seconds

    def close_row(self) -> dict[str, float]:
        """seconds_STAGE and busy_STAGE since the last row; starts the next.

        One generator call samples and decodes; its wall-clock share is split by what the generators reported.
        """
        self._charge()
        seconds, busy = self._seconds, self._busy
        self._seconds, self._busy = dict.fromkeys(STAGES, 0.0), dict.fromkeys(BUSY_STAGES, 0.0)
        generating = seconds["sample"] + seconds["decode"]
        worked = busy["sample"] + busy["decode"]
        if worked > 0:
            seconds["decode"] = generating * busy["decode"] / worked
            seconds["sample"] = generating - seconds["decode"]
        return {f"seconds_{stage}": spent for stage, spent in seconds.items()} | {
            f"busy_{stage}": spent for stage, spent in busy.items()
        }

    def _enter(self, name: str) -> None:
        if name not in _RANK:
            raise ValueError(f"stage: got {name!r}, allowed {', '.join(STAGES)}")
        self._charge()
        self._active[name] += 1

    def _leave(self, name: str) -> None:
        self._charge()
        self._active[name] -= 1

    def _charge(self) -> None:
        """Gives the time since the last event to the stage that was current."""
        now = self._clock()
        self._seconds[self.current] += now - self._since
        self._since = now
