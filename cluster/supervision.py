"""Pools of Ray actors that are watched: every call has a deadline, a lost actor is replaced, restarts are bounded.

    caller ── call ──▶ idle member ──▶ prepare (when outdated) ──▶ remote method ──▶ value
                          ▲                  │ died, deadline passed, node lost or drained
                          │                  ▼
                          │            the call goes to another member at once; the event is counted
       prepare ◀── ready ◀── a new actor, in the background: it may wait for a node

Ray itself restarts nothing (max_restarts=0): a restarted actor has lost its state, so the pool starts a new one and
prepares it (a generator fetches the newest weights) before it serves. An exception that the method itself raises is the
caller's business: it comes through as it was raised and is never retried.

A pool can be resized while it works. One whose `least` lies below its size lives on with what it has where an actor
cannot join; any other ends the run, naming the role.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.errors import RunFailed
from cluster.ledger import current_stage
from cluster.member import LOST, CallUnderWay, Member, PoolEvent, Revoked, one_line, went_with_its_node
from cluster.stacks import describe, introduce

START_DEADLINE_S = 120.0
LATE_S = 20.0  # an actor that was taken for lost is listened to for so long, and then killed
LEAVE_MARGIN_S = 3.0  # before its node ends, a call that is still under way is handed back


class CallTimedOut(RunFailed):
    """No answer before the deadline; the member was killed and replaced, and no retry was left."""


class ActorLost(RunFailed):
    """The member died during the call and was replaced, and no retry was left."""


class ActorPool:
    """`size` actors of one role behind one `call`.

    spawn(index) makes an actor. prepare(handle) brings one up to date: it runs before a member's next call whenever
    `refresh` was called since, and before a new member serves. on_event hears of every replacement, and of actors that
    could not join. More than `max_restarts` charged replacements end the run; losses of whole nodes are not charged.
    least: so many must have joined before `start` returns, and stay; default: all.
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
        least: int | None = None,
    ) -> None:
        self.name = name
        self.size = size  # that is aimed at
        self.deadline_s = deadline_s
        self.restarts = 0
        self.handed_back = 0  # calls that went to another member because theirs was lost
        self.late = 0  # answers of actors that had been replaced, refused
        self.waiting = 0  # calls that no member is free for
        self._least = size if least is None else least
        self._charged = 0
        self._spawn = spawn
        self._max_restarts = max_restarts
        self._on_event = on_event
        self._prepare = prepare
        self._start_deadline_s = start_deadline_s
        self._revision = 0
        self._incarnations = 0
        self._members: dict[int, Member] = {}  # that serve, by place
        self._joining: dict[int, Member] = {}  # that wait for a node or start
        self._leaving: set[Member] = set()  # that are no longer part of the pool but still have to be killed
        self._idle: deque[Member] = deque()
        self._change = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- what callers use -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts all members and waits until `least` of them answer.

        Raises: RunFailed naming the role when one cannot be placed or its constructor fails.
        """
        for index in range(self.size):
            self._place(index)
        while self.ready < self._least:
            await self._changed()

    async def call(
        self, method: str, *args: Any, deadline_s: float | None = None, retries: int = 3, charge: bool = True
    ) -> Any:
        """Result of `method(*args)` on an idle member. Of a method declared with several returns, the first is fetched
        and the others stay ObjectRefs.

        charge=False leaves the replacement of a member out of the restart budget (for callers that have their own).
        Raises: what the method raises; CallTimedOut or ActorLost after `retries` more attempts (the loss of a node is
        no attempt); RunFailed when the restart budget is spent.
        """
        attempts = 0
        while True:
            member = await self._take()
            try:
                return await self._ask(member, method, args, self.deadline_s if deadline_s is None else deadline_s)
            except Revoked:
                self.handed_back += 1
            except (*LOST, TimeoutError) as error:
                await self._lose(member, error, charge)
                self.handed_back += 1
                attempts += not went_with_its_node(error)
                if attempts > retries:
                    raise self._give_up(method, error) from None
            finally:
                self._release(member)

    async def refresh(self) -> None:
        """Make every member prepare anew: the idle ones now, the others before their next call."""
        self._revision += 1
        idle = list(self._idle)
        self._idle.clear()
        await asyncio.gather(*(self._bring_up_to_date(member) for member in idle))

    async def close(self) -> None:
        """Kill every member, whatever it is doing."""
        for task in self._tasks:
            task.cancel()
        for member in (*self._members.values(), *self._joining.values(), *self._leaving):
            ray.kill(member.handle, no_restart=True)
        for each in (self._members, self._joining, self._leaving, self._idle):
            each.clear()

    # ---- what makes it grow and shrink ----------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Aims at `size` members: new ones join when there is room for them; of too many, those go first that have not
        joined, then idle ones; a busy one ends its call before."""
        while self.size < size:
            free = next(i for i in range(self.size + 1) if i not in self._members and i not in self._joining)
            self._place(free)
            self.size += 1
        while self.size > max(size, self._least):
            self._retire(self._most_dispensable())
            self.size -= 1

    def drain(self, seconds_left: Mapping[str, float]) -> None:
        """Nodes, by id, end in so many seconds: who works there is replaced elsewhere, ends its call if time allows,
        and hands it back otherwise."""
        for member in list(self._members.values()):
            if member.where is None or member.where.node_id not in seconds_left:
                continue
            left_s = seconds_left[member.where.node_id]
            self._retire(member)
            time_s = min(max(0.0, left_s - LEAVE_MARGIN_S), self.deadline_s)
            asyncio.get_running_loop().call_later(time_s, self._hand_back, member, "its node is drained")
            self._replaced(member, "drained", f"leaves node {member.where.node_id[:8]}, which is drained", charge=False)

    def lose_nodes(self, node_ids: frozenset[str]) -> None:
        """Nodes are gone: calls of their members go elsewhere at once, and what one still answers is refused."""
        for member in list(self._members.values()):
            if member.where is not None and member.where.node_id in node_ids:
                del self._members[member.index]
                self._forget_idle(member)
                self._leaving.add(member)
                member.revoke("its node is gone")
                asyncio.get_running_loop().call_later(LATE_S, self._kill, member)
                self._replaced(member, "node", f"lost with its node {member.where.node_id[:8]}", charge=False)

    @property
    def ready(self) -> int:
        """Members that stand ready or work."""
        return len(self._members)

    @property
    def pending(self) -> int:
        """Actors that wait for a node, start, or fetch weights."""
        return len(self._joining)

    @property
    def longest_wait_s(self) -> float:
        """Of the pending ones; 0 where there is none."""
        return max((time.monotonic() - member.placed for member in self._joining.values()), default=0.0)

    @property
    def members(self) -> list[Member]:
        """That serve, by place."""
        return [self._members[index] for index in sorted(self._members)]

    @property
    def handles(self) -> list[ActorHandle]:
        return [member.handle for member in self.members]

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that members work on."""
        return frozenset(member.where.node_id for member in self._members.values() if member.where)

    def under_way(self) -> list[CallUnderWay]:
        """The calls that wait for an answer, oldest first."""
        busy = [member for member in (*self._members.values(), *self._joining.values()) if member.doing]
        calls = [CallUnderWay(self.name, each.index, each.doing, each.since, each.where) for each in busy]
        return sorted(calls, key=lambda call: call.since)

    # ---- one call -------------------------------------------------------------------------------------------------

    async def _take(self) -> Member:
        while not self._idle:
            self.waiting += 1
            try:
                await self._changed()
            finally:
                self.waiting -= 1
        self._check()
        return self._idle.popleft()

    def _release(self, member: Member) -> None:
        """After its call: free for the next one, unless it is no longer part of the pool."""
        if member.leaving:
            self._kill(member)
        elif self._members.get(member.index) is member and member not in self._idle:
            self._idle.append(member)
            self._change.set()

    async def _ask(self, member: Member, method: str, args: tuple[Any, ...], deadline_s: float) -> Any:
        if member.prepared < self._revision:
            await self._prepare_member(member)
        with member.asked(method):
            returned = getattr(member.handle, method).remote(*args)
            first, *others = returned if isinstance(returned, list) else [returned]
            value = await member.answer(first, deadline_s, self._note_late)
        return (value, *others) if others else value

    async def _bring_up_to_date(self, member: Member) -> None:
        try:
            await self._prepare_member(member)
        except Revoked:
            pass
        except (*LOST, TimeoutError) as error:
            await self._lose(member, error, charge=True)
        finally:
            self._release(member)

    async def _prepare_member(self, member: Member) -> None:
        revision = self._revision
        if self._prepare is not None:
            with member.asked("activate"):
                await member.answer(self._prepare(member.handle), self.deadline_s)
        member.prepared = revision

    # ---- members that come ----------------------------------------------------------------------------------------

    def _place(self, index: int) -> None:
        """A new actor for the place; it serves as soon as it is ready and prepared."""
        self._incarnations += 1
        member = Member(index, self._spawn(index), self._incarnations)
        self._joining[index] = member
        task = asyncio.get_running_loop().create_task(self._join(member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, member: Member) -> None:
        try:
            await self._await_ready(member)
            if self._revision:
                await self._prepare_member(member)
        except Revoked:
            return
        except (*LOST, TimeoutError) as error:  # lost while it started: as if it had been lost later
            await self._lose_joining(member, error)
        except RunFailed as error:
            self._withdraw(member, error)
        except Exception as error:
            self._fail(error)
        else:
            if self._joining.pop(member.index, None) is member:
                self._members[member.index] = member
                self._release(member)

    async def _await_ready(self, member: Member) -> None:
        try:
            with member.asked("start"):
                waiting: Any = member.handle.__ray_call__.remote(introduce)
                member.where = await member.answer(waiting, self._start_deadline_s)
        except TimeoutError:
            raise RunFailed(
                f"{self.name}: actor {member.index} did not start within {self._start_deadline_s:.0f} s; "
                "the cluster may lack the CPUs or the memory for it"
            ) from None
        except Revoked:
            raise
        except Exception as error:
            if isinstance(error, LOST) and not getattr(error, "actor_init_failed", False):
                raise
            raise RunFailed(f"{self.name}: could not start: {one_line(error)}") from error

    def _withdraw(self, member: Member, error: RunFailed) -> None:
        """It cannot join. The pool lives on without it where enough others are there."""
        del self._joining[member.index]
        self._kill(member)
        if self.ready + self.pending < max(1, self._least):
            self._fail(error)
            return
        self.size -= 1
        self._on_event(PoolEvent(self.name, member.index, "withdrawn", str(error)))

    # ---- members that go ------------------------------------------------------------------------------------------

    async def _lose(self, member: Member, error: BaseException, charge: bool) -> None:
        """A member that serves is gone, or late: it is killed, and its place taken."""
        if self._members.get(member.index) is not member:  # it was leaving
            return
        del self._members[member.index]
        timed_out, node = isinstance(error, TimeoutError), went_with_its_node(error)
        stacks = await describe(member.where) if timed_out and member.where else ""
        self._kill(member)
        kind = "timeout" if timed_out else "node" if node else "died"
        reason = "deadline passed" if timed_out else "lost with its node" if node else one_line(error)
        self._replaced(member, kind, reason, charge and not node, stacks)
        self._check()

    async def _lose_joining(self, member: Member, error: BaseException) -> None:
        if self._joining.pop(member.index, None) is not member:
            return
        self._members[member.index] = member  # it nearly was
        try:
            await self._lose(member, error, charge=True)
        except RunFailed as failure:
            self._fail(failure)

    def _replaced(self, member: Member, kind: str, reason: str, charge: bool, stacks: str = "") -> None:
        """Counts and reports a lost member, and starts the next in its place."""
        self.restarts += 1
        self._charged += charge
        self._on_event(PoolEvent(self.name, member.index, kind, reason, member.doing, current_stage(), stacks))
        if self._charged > self._max_restarts:
            spent = f"{self.name}: lost {self._charged} times, allowed {self._max_restarts}; last: {reason}"
            self._fail(RunFailed(spent))
        else:
            self._place(member.index)

    def _most_dispensable(self) -> Member:
        pending, idle, busy = self._joining.values(), self._idle, self._members.values()
        return max(next(group for group in (pending, idle, busy) if group), key=lambda member: member.incarnation)

    def _retire(self, member: Member) -> None:
        """Leaves the pool; a call that it works on is ended first."""
        if self._joining.get(member.index) is member:
            del self._joining[member.index]
            member.revoke("no longer needed")
            self._kill(member)
            return
        del self._members[member.index]
        self._leaving.add(member)
        if member in self._idle:
            self._forget_idle(member)
            self._kill(member)
        else:
            member.leaving = True

    def _hand_back(self, member: Member, reason: str) -> None:
        """Its call, if one is still under way, goes to another member."""
        if member in self._leaving:
            member.revoke(reason)
            self._kill(member)

    def _forget_idle(self, member: Member) -> None:
        if member in self._idle:
            self._idle.remove(member)

    def _kill(self, member: Member) -> None:
        self._leaving.discard(member)
        ray.kill(member.handle, no_restart=True)

    def _note_late(self, member: Member) -> None:
        """An actor answered that was no longer part of the pool."""
        self.late += 1
        self._kill(member)

    # ---- ends -----------------------------------------------------------------------------------------------------

    async def _changed(self) -> None:
        """Returns after a member has joined or become free. Raises what ended the pool."""
        self._check()
        self._change.clear()
        await self._change.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._change.set()

    def _give_up(self, method: str, error: BaseException) -> RunFailed:
        if isinstance(error, TimeoutError):
            return CallTimedOut(f"{self.name}: {method} gave no answer before its deadline")
        return ActorLost(f"{self.name}: died during {method}: {one_line(error)}")
