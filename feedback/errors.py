"""The two ways in which the preference log does not do what it was asked."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a request is refused; `STATUS` is what a web app answers."""

    UNKNOWN = "unknown"  # names a listener, pair or clip that is not there
    CONFLICT = "conflict"  # the id is taken by other content, or this listener has answered this pair
    INVALID = "invalid"  # a value that no listener can mean
    GONE = "gone"  # the listener had themselves deleted


STATUS = {Reason.UNKNOWN: 404, Reason.CONFLICT: 409, Reason.INVALID: 422, Reason.GONE: 410}


class Refused(Exception):
    """The request is wrong and will be wrong again. Nothing was stored. The text names no listener."""

    def __init__(self, reason: Reason, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.reason, self.field, self.problem = reason, field, problem

    def __reduce__(self) -> tuple[type[Refused], tuple[Reason, str, str]]:
        return type(self), (self.reason, self.field, self.problem)

    @property
    def status(self) -> int:
        """4xx."""
        return STATUS[self.reason]


class Unavailable(Exception):
    """The database or the disk does not answer, is locked or full. The same request may be sent again, with its id:
    if it was stored after all, it is stored once."""

    status = 503
    retry_after_s = 2
