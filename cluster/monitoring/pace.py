"""Times in rules, all of which a test can shorten by one factor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Times are divided by `factor`: at 60 an alert is seen within seconds that takes minutes in earnest."""

    factor: float = 1.0

    def span(self, seconds: float) -> str:
        """A duration of PromQL."""
        thousandths = max(1, round(seconds / self.factor * 1000))
        for size, unit in ((3_600_000, "h"), (60_000, "m"), (1000, "s")):
            if thousandths % size == 0:
                return f"{thousandths // size}{unit}"
        return f"{thousandths}ms"

    def seconds(self, seconds: float) -> str:
        """A plain number of seconds."""
        return f"{seconds / self.factor:g}"
