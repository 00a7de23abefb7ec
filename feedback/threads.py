"""Threads in which the preference log's blocking calls run, each wait with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from feedback.errors import Unavailable

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 8
DEADLINE_S = 15.0  # above the log's own, which answers first


class LogThreads:
    """Runs calls of the log beside the event loop."""

    def __init__(self, threads: int = THREADS, deadline_s: float = DEADLINE_S) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="preference-log")
        self._deadline_s = deadline_s

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Its result. Raises what the call raises; Unavailable at the deadline, while the call itself may still end."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._deadline_s)
        except TimeoutError:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard, if it ends later
            raise Unavailable(f"the preference log gave no answer within {self._deadline_s:g} s") from None

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
