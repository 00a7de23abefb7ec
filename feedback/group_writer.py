"""Many threads write, one thread commits: what waits at the same moment goes into one transaction.

A commit costs one sync of the disk, whatever it holds; a hundred votes a second on a disk of 10 ms a sync need this.
Each piece of work has a savepoint of its own, so that one refused vote takes no other along, and nobody is told that
something is stored before the commit has returned.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from feedback.database import Database, cause, is_busy
from feedback.errors import Reason, Refused, Unavailable

T = TypeVar("T")
GROUP = 64  # most pieces of work in one transaction
_RETRY_S = (0.002, 0.02)  # random pause before the lock is asked for again


@dataclass
class _Job:
    work: Callable[[Connection], Any]
    future: Future = field(default_factory=Future)


class GroupWriter:
    """`write(work)` runs `work(connection)` in a transaction and returns its result once that is durable."""

    def __init__(self, database: Database, deadline_s: float) -> None:
        self._database, self._deadline_s = database, deadline_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open, self._gate = True, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="preference-log-writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Connection], T]) -> T:
        """Raises Refused when `work` does, Unavailable when it could not be made durable before the deadline.

        `work` may run more than once and must do everything through the connection it gets.
        """
        job = _Job(work)
        with self._gate:
            if not self._open:
                raise Unavailable("preference log: closed")
            self._jobs.put(job)
        try:
            return job.future.result(2 * self._deadline_s)  # its own group's deadline, and that of the group before
        except FutureTimeout:
            job.future.cancel()
            raise Unavailable(f"preference log: not written within {2 * self._deadline_s:g} s") from None

    def close(self) -> None:
        """Writes what waits, then ends."""
        with self._gate:
            if self._open:
                self._open = False
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            waiting = [self._jobs.get()]
            while waiting[-1] is not None and len(waiting) < GROUP:
                try:
                    waiting.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            last = waiting[-1] is None
            group = [job for job in waiting if job is not None and job.future.set_running_or_notify_cancel()]
            if group:
                self._commit(group)

    def _commit(self, group: list[_Job]) -> None:
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                with self._database.writing.begin() as connection:
                    outcomes = [_attempt(connection, job.work) for job in group]
                break
            except Exception as error:
                if time.monotonic() < deadline and _may_pass(error):
                    time.sleep(random.uniform(*_RETRY_S))
                    continue
                problem = f"preference log {self._database.shown_url}: {cause(error)}"
                outcomes = [Unavailable(problem) for _ in group]
                break
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)


def _may_pass(error: Exception) -> bool:
    """A lock will be free again; a lost connection is made anew. A full disk stays full."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return is_busy(error) or lost or isinstance(error, PoolTimeout)


def _attempt(connection: Connection, work: Callable[[Connection], Any]) -> Any:
    """-> the result of `work`, or the exception that concerns it alone. Raises what concerns the whole group."""
    for tries_left in (1, 0):
        try:
            with connection.begin_nested():
                return work(connection)
        except IntegrityError:
            # another process wrote the same id in between: a second look finds its row
            if not tries_left:
                return Refused(Reason.CONFLICT, "id", "written by another process at the same moment")
        except DataError as error:
            return Refused(Reason.INVALID, "value", cause(error))
        except DBAPIError:
            raise
        except Exception as error:
            return error
    raise AssertionError("unreachable")
