"""What the app counts for Prometheus. No label names a listener."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "musicrl_feedback_"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meter:
    """Counters of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.votes = self._counter("votes", "answers acknowledged", "choice")
        self.ratings = self._counter("ratings", "ratings acknowledged")
        self.refused = self._counter("refused", "requests refused", "status")
        self.pairs = self._counter("pairs_made", "pairs made", "purpose")
        self.failures = self._counter("pairs_failed", "pairs that could not be made", "purpose")
        self.wait_s = self._histogram("pair_wait_seconds", "from asking for a pair to having it")
        self.make_s = self._histogram("pair_make_seconds", "from the start of sampling to a pair in the log")
        self.store_s = self._histogram("store_seconds", "until the preference log acknowledged an answer")

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(PREFIX + name, meaning, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(PREFIX + name, meaning, buckets=SECONDS, registry=self._registry)
