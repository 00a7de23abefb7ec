"""One actor of a pool, from its start to its end, and the wait for its answers.

A member is one life of one actor: whoever takes its place is another member, with a higher incarnation. An answer
counts only while its member is part of the pool. A node that died takes seconds to be noticed, and an actor that
outlives it goes on answering: such an answer is refused by its incarnation, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.stacks import Whereabouts

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
NODE_DIED = "its node has died"  # in Ray's words, where an actor went with its node
REASON_CHARS = 200


class Revoked(Exception):
    """The member was taken out of the pool while it worked: its node is gone or is being drained."""


@dataclass(frozen=True)
class PoolEvent:
    """Something happened to one member."""

    role: str
    index: int
    kind: str  # replaced: "died" | "timeout" | "node" (went with its node) | "drained"; not replaced: "withdrawn"
    reason: str
    method: str = ""  # that was called
    stage: str = ""  # of the run, that the call was made in
    stacks: str = ""  # of the process, where it was too late


@dataclass(frozen=True)
class CallUnderWay:
    """What one actor has been asked and has not answered yet. method: also "start", before it stands ready."""

    role: str
    index: int
    method: str
    since: float  # time.monotonic()
    where: Whereabouts | None  # None: it has never answered

    def __str__(self) -> str:
        return f"{self.role} {self.index} {self.method}" + (f", {self.where}" if self.where else "")


@dataclass(eq=False)
class Member:
    """index: its place in the pool; incarnation: grows with every actor that the pool starts."""

    index: int
    handle: ActorHandle
    incarnation: int
    prepared: int = 0  # the pool's revision that it was prepared for
    where: Whereabouts | None = None  # None: it has never answered
    doing: str = "start"  # the method that it was asked; empty: nothing
    since: float = field(default_factory=time.monotonic)  # of that
    placed: float = field(default_factory=time.monotonic)  # when the pool asked for it
    leaving: bool = False  # it ends with the call that it works on
    revoked: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @contextmanager
    def asked(self, method: str) -> Iterator[None]:
        self.doing, self.since = method, time.monotonic()
        try:
            yield
        except (*LOST, TimeoutError):
            raise  # `doing` stays: its replacement tells what was lost
        except BaseException:
            self.doing = ""
            raise
        self.doing = ""

    def revoke(self, reason: str) -> None:
        """Whoever waits for it stops waiting; what it still answers is refused."""
        if not self.revoked.done():
            self.revoked.set_result(reason)

    async def answer(
        self, waitable: Awaitable[Any], deadline_s: float, on_late: Callable[[Member], None] = lambda member: None
    ) -> Any:
        """Value of an ObjectRef of this member. `on_late` hears of an answer that came after the member was revoked.

        Raises: TimeoutError at the deadline, Revoked, or the method's own exception as it was raised.
        """
        answer = asyncio.ensure_future(unwrapped(waitable))
        try:
            await asyncio.wait((answer, self.revoked), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        if self.revoked.done():
            answer.add_done_callback(lambda done: self._heard_late(done, on_late))
            raise Revoked(self.revoked.result())
        if answer.done():
            return answer.result()
        answer.cancel()
        raise TimeoutError

    def _heard_late(self, answer: asyncio.Future[Any], on_late: Callable[[Member], None]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            on_late(self)


async def unwrapped(waitable: Awaitable[Any]) -> Any:
    """The value, or the exception of an actor's method as it was raised."""
    try:
        return await waitable
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise


def went_with_its_node(error: BaseException) -> bool:
    return isinstance(error, NodeDiedError | Revoked) or NODE_DIED in str(error)


def one_line(error: BaseException) -> str:
    """The telling line of a Ray error: the last of a traceback, the first of a notice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if isinstance(error, RayError) else lines[0]
    return line.split(" Some common causes")[0][:REASON_CHARS]
