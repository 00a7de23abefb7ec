"""The watch over a run in which nothing gets done: it names the stage and the process, shows its stacks, and ends it.

    no progress for pipeline.stall_warn_s   told: stage, calls without an answer, stacks of their processes; counted
    no progress for pipeline.stall_s        told again, and RunFailed: the run is gone on with by a resume

Progress is any stage of any rollout or step that is done (learner.activity), so the watch needs to know nothing of
what a stage does. What stands still is told by the pools: the oldest call without an answer, and who was asked. The
driver's own thread is watched from beside it (cluster.heartbeat).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from cluster.errors import RunFailed
from cluster.member import CallUnderWay
from cluster.stacks import Whereabouts, describe, own_stacks
from configs.schema import PipelineConfig
from learner.activity import Activity

SHOWN_CALLS = 4  # processes whose stacks are shown, those that were asked first
TICK_S = 1.0


@dataclass(frozen=True)
class Stall:
    """A run that stands still."""

    seconds: float
    stages: dict[str, int]  # under way, and how often
    calls: tuple[CallUnderWay, ...]  # without an answer, oldest first
    stacks: tuple[str, ...]  # of the first SHOWN_CALLS calls' processes; of this one where no call waits

    @property
    def line(self) -> str:
        """learn (1); waits for learner 0 step, pid 4711 on node 1f0c2d3e (no answer to a signal: stopped …)"""
        stages = ", ".join(f"{name} ({count})" for name, count in self.stages.items())
        if not self.calls:
            return f"{stages}; no actor has been asked for anything"
        first, says = self.calls[0], self.stacks[0].splitlines()
        why = f" ({says[0]})" if len(says) == 1 else ""
        return f"{stages}; waits for {first}{why}"

    @property
    def report(self) -> str:
        """The line, and below it the stacks."""
        named = [str(call) for call in self.calls] or ["the driver"]
        parts = [f"  {name}:\n" + _indented(stack) for name, stack in zip(named, self.stacks, strict=False)]
        return "\n".join([f"no progress for {self.seconds:.0f} s in: {self.line}", *parts])


class Watchdog:
    """One per run. tell: hears of every stall. calls: what the pools have been asked and have not answered."""

    def __init__(
        self,
        activity: Activity,
        calls: Callable[[], list[CallUnderWay]],
        settings: PipelineConfig,
        tell: Callable[[Stall], None],
        ask: Callable[[Whereabouts], Awaitable[str]] = describe,
    ) -> None:
        self._activity = activity
        self._calls = calls
        self._warn_s, self._end_s = settings.stall_warn_s, settings.stall_s
        self._tell = tell
        self._ask = ask

    async def watch(self) -> NoReturn:
        """Raises RunFailed, naming the stages, once nothing got done for `pipeline.stall_s`."""
        tick_s, told = min(TICK_S, self._end_s / 4), False
        while True:
            slept_s = await _sleep(tick_s)
            if slept_s > 5 * tick_s:  # this process was stopped, or its loop was: what others did is not known yet
                self._activity.forgive(slept_s - tick_s)
            idle_s = self._activity.idle_s
            if idle_s > self._end_s:
                stall = await self._look(idle_s)
                self._tell(stall)
                raise RunFailed(f"no progress for {self._end_s:g} s (pipeline.stall_s) in: {stall.line}")
            if idle_s > self._warn_s and not told:
                self._tell(await self._look(idle_s))
            told = idle_s > self._warn_s

    async def _look(self, idle_s: float) -> Stall:
        calls = sorted(self._calls(), key=lambda call: call.since)
        shown = calls[:SHOWN_CALLS]
        stacks = await asyncio.gather(*(self._stacks_of(call) for call in shown)) if shown else [own_stacks()]
        return Stall(idle_s, self._activity.under_way, tuple(calls), tuple(stacks))

    async def _stacks_of(self, call: CallUnderWay) -> str:
        return await self._ask(call.where) if call.where else "it has never answered"


async def _sleep(seconds: float) -> float:
    """-> how long it really took."""
    started = time.monotonic()
    await asyncio.sleep(seconds)
    return time.monotonic() - started


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
