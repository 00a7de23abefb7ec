"""What the run is doing at this moment: for the ledger, and for the watch over a run in which nothing gets done."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from cluster.errors import RunFailed
from cluster.ledger import Ledger


class Activity:
    """Stages in progress. `beside`: producing runs beside the learner (asynchronous mode), and the wall clock belongs
    to the learner's own loop."""

    def __init__(self, ledger: Ledger, beside: bool, stall_s: float) -> None:
        self.ledger = ledger
        self._beside = beside
        self._stall_s = stall_s
        self._doing: Counter[str] = Counter()
        self._progress_at = time.monotonic()

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

    def stalled(self) -> dict[str, float]:
        """Seconds since anything got done, by stage under way; `wait` where none is."""
        seconds = time.monotonic() - self._progress_at
        stages = [name for name, count in self._doing.copy().items() if count] or ["wait"]
        return dict.fromkeys(stages, seconds)

    async def watch(self) -> None:
        """Never returns. Raises RunFailed, naming the stages, once nothing got done for `stall_s`."""
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            if time.monotonic() - self._progress_at > self._stall_s:
                stages = ", ".join(f"{name} ({count})" for name, count in self._doing.items() if count)
                raise RunFailed(f"no progress for {self._stall_s:g} s (pipeline.stall_s) in: {stages or 'wait'}")

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        self._doing[name] += 1
        try:
            yield
        finally:
            self._doing[name] -= 1
            self._progress_at = time.monotonic()
