"""A process whose own loop stands still cannot end itself in good order: a thread beside the loop does it.

What can hold the driver's loop is its own disk (a network file system that is gone), or leaving: an actor that does
not die, a Ray that does not shut down. All that is durable stays, so the run goes on by a resume.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from cluster.stacks import own_stacks

TICK_S = 1.0


class Heartbeat:
    """Ends the process with exit status 1 after `limit_s` without a beat, from the first beat on. Time in which the
    process itself was stopped does not count. hint: the way back, for the last line.

    >>> with Heartbeat(300.0) as heart: heart.beat("writing the report")
    """

    def __init__(self, limit_s: float, end: Callable[[int], object] = os._exit) -> None:
        self.hint = ""
        self._limit_s = limit_s
        self._end = end
        self._silent_s = 0.0
        self._doing = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def beat(self, doing: str = "") -> None:
        """This process is alive. doing: what it does from now on, for the last line."""
        self._doing = doing or self._doing
        self._silent_s = 0.0

    async def keep(self, doing: str) -> None:
        """Beats for as long as the event loop turns. Never returns."""
        while True:
            self.beat(doing)
            await asyncio.sleep(min(TICK_S, self._limit_s / 4))

    def _watch(self) -> None:
        tick_s = min(TICK_S, self._limit_s / 4)
        before = time.monotonic()
        while not self._stop.wait(tick_s):
            now = time.monotonic()
            self._silent_s += min(now - before, 2 * tick_s) if self._doing else 0.0
            before = now
            if self._silent_s > self._limit_s:
                self._give_up()
                return

    def _give_up(self) -> None:
        line = f"error: no progress for {self._limit_s:g} s (pipeline.stall_s) in the driver itself: {self._doing}"
        way_back = f"; {self.hint}" if self.hint else ""
        print(own_stacks(), line + way_back, sep="\n", file=sys.stderr, flush=True)
        self._end(1)
