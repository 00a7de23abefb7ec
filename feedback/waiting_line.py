"""What listeners asked for: one request each, those that wait in a line, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from feedback.records import Pair

KEPT_S = 3600.0  # what became of a request is told for so long


class Stage(StrEnum):
    """Where a pair that was asked for is."""

    QUEUED = "queued"
    SAMPLING = "sampling"
    RENDERING = "rendering"
    SAVING = "saving"
    READY = "ready"
    FAILED = "failed"


class Busy(Exception):
    """More requests wait than may."""


@dataclass(eq=False)
class Request:
    """A pair that a listener asked for."""

    listener_id: str
    prompt: str
    wanted: str | None  # the prompt, or None if any would do
    asked_by: str  # the listener, for their own words; "" for a suggestion
    asked_at: float
    group: str = ""  # of the listener, where a policy is played to it alone
    stage: Stage = Stage.QUEUED
    pair: Pair | None = None
    problem: str = ""

    @property
    def is_open(self) -> bool:
        return self.stage not in (Stage.READY, Stage.FAILED)

    def reach(self, stage: Stage) -> None:
        """What has failed at its deadline stays so, whatever its task still says."""
        if self.is_open:
            self.stage = stage

    def finish(self, pair: Pair) -> None:
        if self.is_open:
            self.stage, self.pair = Stage.READY, pair

    def fail(self, problem: str) -> None:
        if self.is_open:
            self.stage, self.problem = Stage.FAILED, problem


class Requests:
    """deadline_s: from asking to having. longest: how many may wait."""

    def __init__(self, deadline_s: float, longest: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline_s, self._longest, self._clock = deadline_s, longest, clock
        self._waiting: list[Request] = []
        self._of: dict[str, Request] = {}

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def add(
        self, listener_id: str, prompt: str, wanted: str | None, asked_by: str, pair: Pair | None, group: str = ""
    ) -> Request:
        """Takes the place of the listener's last request. With a pair it is done; else it waits in the line.

        Raises Busy when the line is full.
        """
        self._forget_old()
        if pair is None and len(self._waiting) >= self._longest:
            raise Busy
        self.drop(listener_id)
        request = self._of[listener_id] = Request(listener_id, prompt, wanted, asked_by, self._clock(), group)
        if pair is None:
            self._waiting.append(request)
        else:
            request.finish(pair)
        return request

    def of(self, listener_id: str) -> Request | None:
        """The listener's last request."""
        return self._of.get(listener_id)

    def ahead_of(self, request: Request) -> int:
        """How many wait before this one."""
        return self._waiting.index(request) if request in self._waiting else 0

    def next(self) -> Request:
        """Takes the first out of the line."""
        return self._waiting.pop(0)

    def drop(self, listener_id: str) -> None:
        """Forgets the listener's request, if there is one."""
        self._of.pop(listener_id, None)
        self._waiting = [request for request in self._waiting if request.listener_id != listener_id]

    def age_s(self, request: Request) -> float:
        return self._clock() - request.asked_at

    def left_s(self, request: Request) -> float:
        """Until its deadline; not above zero when it has passed."""
        return self._deadline_s - self.age_s(request)

    def _forget_old(self) -> None:
        for listener_id in [who for who, request in self._of.items() if self.age_s(request) > KEPT_S]:
            self.drop(listener_id)
