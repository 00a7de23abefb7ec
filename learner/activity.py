"""What the run is doing at this moment: for the ledger, and for the watch over a run in which nothing gets done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

from cluster.ledger import Ledger, in_stage


class Activity:
    """Stages in progress. `beside`: producing runs beside the learner (asynchronous mode), and the wall clock belongs
    to the learner's own loop."""

    def __init__(self, ledger: Ledger, beside: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = ledger
        self._beside = beside
        self._clock = clock
        self._doing: Counter[str] = Counter()
        self._patient = 0
        self._progress_at = clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Work of the run's own loop."""
        with self.ledger.stage(name), self._noted(name):
            yield

    @contextmanager
    def producing(self, name: str) -> Iterator[None]:
        """Work on a rollout that is not stored yet."""
        with nullcontext() if self._beside else self.ledger.stage(name), self._noted(name):
            yield

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The learner waits for rows. In synchronous mode the time belongs to the stage it waits for."""
        with self.ledger.stage("wait") if self._beside else nullcontext():
            yield

    @property
    def idle_s(self) -> float:
        """Seconds since anything got done; 0 while work goes on that has a deadline of its own."""
        return 0.0 if self._patient else self._clock() - self._progress_at

    @property
    def under_way(self) -> dict[str, int]:
        """How often each stage is under way; `wait` where none is."""
        return {name: count for name, count in self._doing.copy().items() if count} or {"wait": 1}

    def stalled(self) -> dict[str, float]:
        """Seconds since anything got done, by stage under way."""
        return dict.fromkeys(self.under_way, self.idle_s)

    def forgive(self, seconds: float) -> None:
        """Time in which nothing could get done: this process was stopped (Ctrl-Z, a paused machine), or the actors wait
        for nodes, which has a deadline of its own."""
        self._progress_at += seconds

    async def patiently(self, work: Awaitable[None]) -> None:
        """Work that has a deadline of its own: while it lasts, nothing stalls."""
        self._patient += 1
        try:
            await work
        finally:
            self._patient -= 1
            self._progress_at = self._clock()

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        self._doing[name] += 1
        try:
            with in_stage(name):
                yield
        finally:
            self._doing[name] -= 1
            self._progress_at = self._clock()
