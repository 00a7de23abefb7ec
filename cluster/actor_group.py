"""Actors that act as one: a call goes to all of them at once, and the first one's answer counts.

    caller ── call ──▶ member 0, member 1, …   which exchange with one another before they answer
                           │ one died, was silent, or raised
                           └─▶ all of them are killed: the others would wait for it; one line says which it was

Nothing is restarted here: what the members know together is lost with one of them, and lies in checkpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.errors import PeerMissing, RunFailed
from cluster.member import LOST, PoolEvent, Revoked, one_line
from cluster.supervision import START_DEADLINE_S, ActorLost, ActorPool, CallTimedOut

GONE = (*LOST, Revoked)
GRACE_S = 10.0  # for the others to say what they know, once one has failed


class ActorGroup(ActorPool):
    """`size` actors behind one `call`; spawn, on_event as of ActorPool."""

    def __init__(
        self,
        name: str,
        spawn: Callable[[int], ActorHandle],
        size: int,
        *,
        deadline_s: float,
        on_event: Callable[[PoolEvent], None],
        start_deadline_s: float = START_DEADLINE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        super().__init__(
            name,
            spawn,
            size,
            deadline_s=deadline_s,
            max_restarts=0,
            on_event=on_event,
            start_deadline_s=start_deadline_s,
        )
        self._grace_s = grace_s

    async def call(
        self, method: str, *args: Any, deadline_s: float | None = None, retries: int = 0, charge: bool = True
    ) -> Any:
        """Result of `method(*args)` on the first member, once all have answered. Never retried.

        Raises what the method raises; ActorLost, CallTimedOut or RunFailed where a member is gone, silent or alone. All
        members are dead then.
        """
        if self.ready < self.size:
            raise ActorLost(f"{self.name}: asked to {method} after it has ended")
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        shared = [ray.put(argument) for argument in args]  # one copy for all of them
        asked = [asyncio.create_task(self._ask(member, method, tuple(shared), limit_s)) for member in self.members]
        try:
            _, open_calls = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
            if any(call.exception() for call in asked if call.done()):
                if open_calls:
                    await asyncio.wait(open_calls, timeout=self._grace_s)
                raise await self._end(method, [_outcome(call) for call in asked])
            return asked[0].result()
        finally:
            for call in asked:
                call.cancel()

    async def _end(self, method: str, outcomes: list[BaseException | None]) -> BaseException:
        """Kills all members -> what to raise. outcomes: what each raised; TimeoutError: no answer; None: it is done."""
        await self.close()
        index, error = min(enumerate(outcomes), key=lambda each: _distance(each[1]))
        who = f"{self.name}: worker {index} of {self.size}"
        if isinstance(error, GONE):
            self._on_event(PoolEvent(self.name, index, "died", one_line(error), method))
            return ActorLost(f"{who} died during {method}: {one_line(error)}")
        if isinstance(error, TimeoutError):
            self._on_event(PoolEvent(self.name, index, "timeout", "no answer", method))
            heard = next((f" ({other})" for other in outcomes if isinstance(other, PeerMissing)), "")
            return CallTimedOut(f"{who} gave no answer during {method}{heard}")
        return error or RunFailed(f"{who} ended during {method}")


def _outcome(call: asyncio.Task[Any]) -> BaseException | None:
    return call.exception() if call.done() else TimeoutError()


def _distance(error: BaseException | None) -> int:
    """How far an error is from the cause: a dead member, what a method itself raised, silence, missing another."""
    if error is None:
        return 4
    if isinstance(error, PeerMissing):
        return 3
    if isinstance(error, TimeoutError):
        return 2
    return 0 if isinstance(error, GONE) else 1
