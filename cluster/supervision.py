"""Pools of Ray actors that are watched: every call has a deadline, a lost actor is replaced, restarts are bounded.

    caller ── call ──▶ idle member ──▶ prepare (when outdated) ──▶ remote method ──▶ value
                          ▲                  │ died, or deadline passed
                          └─ respawn ◀───────┘ counted as an event; the call goes to another member

Ray itself restarts nothing (max_restarts=0): a restarted actor has lost its state, so the pool respawns it and
prepares it (a generator fetches the newest weights) before it serves again. An exception that the method itself
raises is the caller's business: it comes through as it was raised and is never retried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.errors import RunFailed
from cluster.ledger import current_stage
from cluster.stacks import Whereabouts, describe, introduce

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
START_DEADLINE_S = 120.0


class CallTimedOut(RunFailed):
    """No answer before the deadline; the member was killed and replaced, and no retry was left."""


class ActorLost(RunFailed):
    """The member died during the call and was replaced, and no retry was left."""


@dataclass(frozen=True)
class PoolEvent:
    """One member was replaced."""

    role: str
    index: int
    kind: str  # "died" | "timeout"
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
    """One place in the pool: the actor in it changes when it is replaced."""

    index: int
    handle: ActorHandle
    prepared: int = 0  # the pool's revision that this actor was prepared for
    where: Whereabouts | None = None
    doing: str = ""  # the method that it was asked; empty: nothing
    since: float = 0.0  # time.monotonic() of that

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


class ActorPool:
    """`size` actors of one role behind one `call`.

    spawn(index) makes an actor. prepare(handle) brings one up to date: it runs before a member's next call whenever
    `refresh` was called since, and on every replacement. on_event hears of every replacement. More than `max_restarts`
    charged replacements end the run.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[int], ActorHandle],
        size: int,
        *,
        deadline_s: float,
        max_restarts: int,
        on_event: Callable[[PoolEvent], None],
        prepare: Callable[[ActorHandle], Awaitable[Any]] | None = None,
        start_deadline_s: float = START_DEADLINE_S,
    ) -> None:
        self.name = name
        self.size = size
        self.deadline_s = deadline_s
        self.restarts = 0
        self._charged = 0
        self._spawn = spawn
        self._max_restarts = max_restarts
        self._on_event = on_event
        self._prepare = prepare
        self._start_deadline_s = start_deadline_s
        self._revision = 0
        self._members: list[Member] = []
        self._missing = 0  # members whose replacement is not ready yet
        self._idle: asyncio.Queue[Member] = asyncio.Queue()
        self._draining = asyncio.Lock()

    async def start(self) -> None:
        """Spawn all members and wait until each answers.

        Raises: RunFailed naming the role when one cannot be placed or its constructor fails.
        """
        self._members = [Member(index, self._spawn(index)) for index in range(self.size)]
        await asyncio.gather(*(self._await_ready(member) for member in self._members))
        for member in self._members:
            self._idle.put_nowait(member)

    async def call(
        self, method: str, *args: Any, deadline_s: float | None = None, retries: int = 3, charge: bool = True
    ) -> Any:
        """Result of `method(*args)` on an idle member. Of a method declared with several returns, the first is fetched
        and the others stay ObjectRefs.

        charge=False leaves the replacement of a member out of the restart budget (for callers that have their own).
        Raises: what the method raises; CallTimedOut or ActorLost after `retries` more attempts; RunFailed when the
        restart budget is spent.
        """
        for attempt in range(retries + 1):
            member = await self._idle.get()
            try:
                return await self._ask(member, method, args, self.deadline_s if deadline_s is None else deadline_s)
            except (*LOST, TimeoutError) as error:
                await self._replace(member, error, charge)
                if attempt == retries:
                    raise self._give_up(method, error) from None
            finally:
                self._idle.put_nowait(member)
        raise AssertionError("unreachable")

    async def call_all(self, method: str, *args: Any, deadline_s: float | None = None) -> list[Any]:
        """Results of `method(*args)` on every member, in index order. A member that is lost is replaced and asked again
        once."""
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        members = await self._take_all()
        try:
            return list(await asyncio.gather(*(self._ask_again(member, method, args, limit_s) for member in members)))
        finally:
            for member in members:
                self._idle.put_nowait(member)

    async def refresh(self) -> None:
        """Make every member prepare anew: the idle ones now, the busy ones before their next call."""
        self._revision += 1
        idle = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        try:
            await asyncio.gather(*(self._bring_up_to_date(member) for member in idle))
        finally:
            for member in idle:
                self._idle.put_nowait(member)

    async def close(self) -> None:
        """Kill every member, whatever it is doing."""
        for member in self._members:
            ray.kill(member.handle, no_restart=True)
        self._members = []

    @property
    def ready(self) -> int:
        """Members that stand ready or work."""
        return len(self._members) - self._missing

    def under_way(self) -> list[CallUnderWay]:
        """The calls that wait for an answer, oldest first."""
        busy = [member for member in self._members if member.doing]
        calls = [CallUnderWay(self.name, each.index, each.doing, each.since, each.where) for each in busy]
        return sorted(calls, key=lambda call: call.since)

    @property
    def handles(self) -> list[ActorHandle]:
        return [member.handle for member in self._members]

    async def _take_all(self) -> list[Member]:
        async with self._draining:
            members = [await self._idle.get() for _ in range(self.size)]
        return sorted(members, key=lambda member: member.index)

    async def _ask(self, member: Member, method: str, args: tuple[Any, ...], deadline_s: float) -> Any:
        if self._prepare is not None and member.prepared < self._revision:
            await self._prepare_member(member)
        with member.asked(method):
            returned = getattr(member.handle, method).remote(*args)
            first, *others = returned if isinstance(returned, list) else [returned]
            value = await _answer(first, deadline_s)
        return (value, *others) if others else value

    async def _ask_again(self, member: Member, method: str, args: tuple[Any, ...], deadline_s: float) -> Any:
        try:
            return await self._ask(member, method, args, deadline_s)
        except (*LOST, TimeoutError) as error:
            await self._replace(member, error, charge=True)
            return await self._ask(member, method, args, deadline_s)

    async def _bring_up_to_date(self, member: Member) -> None:
        try:
            await self._prepare_member(member)
        except (*LOST, TimeoutError) as error:
            await self._replace(member, error, charge=True)

    async def _prepare_member(self, member: Member) -> None:
        if self._prepare is None:
            return
        revision = self._revision
        with member.asked("activate"):
            await asyncio.wait_for(_unwrapped(self._prepare(member.handle)), self.deadline_s)
        member.prepared = revision

    async def _replace(self, member: Member, error: BaseException, charge: bool) -> None:
        """Put a new, ready actor in the member's place."""
        timed_out = isinstance(error, TimeoutError)
        reason = "deadline passed" if timed_out else _one_line(error)
        if getattr(error, "actor_init_failed", False):
            raise RunFailed(f"{self.name}: could not start: {_one_line(error)}")
        stacks = await describe(member.where) if timed_out and member.where else ""
        ray.kill(member.handle, no_restart=True)
        self.restarts += 1
        self._charged += charge
        kind, stage = "timeout" if timed_out else "died", current_stage()
        self._on_event(PoolEvent(self.name, member.index, kind, reason, member.doing, stage, stacks))
        if self._charged > self._max_restarts:
            raise RunFailed(f"{self.name}: lost {self._charged} times, allowed {self._max_restarts}; last: {reason}")
        self._missing += 1
        member.handle, member.prepared, member.where = self._spawn(member.index), 0, None
        await self._await_ready(member)
        self._missing -= 1

    async def _await_ready(self, member: Member) -> None:
        try:
            with member.asked("start"):
                member.where = await _answer(member.handle.__ray_call__.remote(introduce), self._start_deadline_s)
        except TimeoutError:
            raise RunFailed(
                f"{self.name}: actor {member.index} did not start within {self._start_deadline_s:.0f} s; "
                "the cluster may lack the CPUs or the memory for it"
            ) from None
        except (*LOST, ActorUnschedulableError) as error:
            raise RunFailed(f"{self.name}: could not start: {_one_line(error)}") from error

    def _give_up(self, method: str, error: BaseException) -> RunFailed:
        if isinstance(error, TimeoutError):
            return CallTimedOut(f"{self.name}: {method} gave no answer before its deadline")
        return ActorLost(f"{self.name}: died during {method}: {_one_line(error)}")


async def _answer(ref: Any, deadline_s: float) -> Any:
    """Value of an ObjectRef. Raises: TimeoutError at the deadline, the method's own exception as it was raised."""
    return await asyncio.wait_for(_unwrapped(ref), deadline_s)


async def _unwrapped(waitable: Awaitable[Any]) -> Any:
    try:
        return await waitable
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise


def _one_line(error: BaseException) -> str:
    """The telling line of a Ray error: the last of a traceback, the first of a notice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if isinstance(error, RayError) else lines[0]
    return line.split(" Some common causes")[0][:200]
