"""One setting: its default, its meaning and the values it allows, kept together in the dataclass field."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """The values that one setting takes beyond its type. Numbers are always finite."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    path: str = (
        ""  # "asset": read from the current folder or the project's; "output": written, relative to the current folder
    )

    def holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    def text(self) -> str:
        """What is allowed, in words; empty if the type says it all."""
        if self.choices:
            return "one of " + ", ".join(choice or "(empty)" for choice in self.choices)
        low = f"at least {_number(self.at_least)}" if self.at_least is not None else ""
        low = f"above {_number(self.above)}" if self.above is not None else low
        high = f"at most {_number(self.at_most)}" if self.at_most is not None else ""
        return " and ".join(part for part in (low, high) if part)


def setting(default: Any, meaning: str, **allowed: Any) -> Any:
    """A dataclass field that knows its meaning and its bounds (keywords of `Allowed`)."""
    metadata = {"meaning": meaning, "allowed": Allowed(**allowed)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def allowed_of(item: Field) -> Allowed:
    return item.metadata.get("allowed", Allowed())


def meaning_of(item: Field) -> str:
    return item.metadata.get("meaning", "")


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}"
