"""What the app counts for Prometheus. No label names a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from feedback.records import Choice

PREFIX = "musicrl_feedback_"
PURPOSES = ("own", "pool", "study")  # what pairs are made for
REFUSALS = ("401", "404", "409", "410", "413", "422", "429", "500", "503")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meter:
    """Counters of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # every value of a label is there from the start: what never happened is 0, and a rate sees the first time
        self.votes = self._counter("votes", "answers acknowledged", choice=Choice)
        self.ratings = self._counter("ratings", "ratings acknowledged")
        self.refused = self._counter("refused", "requests refused", status=REFUSALS)
        self.pairs = self._counter("pairs_made", "pairs made", purpose=PURPOSES)
        self.failures = self._counter("pairs_failed", "pairs that could not be made", purpose=(*PURPOSES, "start"))
        self.wait_s = self._histogram("pair_wait_seconds", "from asking for a pair to having it")
        self.make_s = self._histogram("pair_make_seconds", "from the start of sampling to a pair in the log")
        self._models = Gauge(
            PREFIX + "models", "1: these policies are compared", ["policy", "version"], registry=self._registry
        )
        self.store_s = self._histogram("store_seconds", "until the preference log acknowledged an answer")

    def compare(self, versions: Mapping[str, str]) -> None:
        """The policies that are compared now: name -> content hash."""
        self._models.clear()
        for policy, version in versions.items():
            self._models.labels(policy, version).set(1)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(PREFIX + name, meaning, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, **labels: Iterable[str]) -> Counter:
        counter = Counter(PREFIX + name, meaning, list(labels), registry=self._registry)
        for label, values in labels.items():
            for value in values:
                counter.labels(**{label: str(value)})
        return counter

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(PREFIX + name, meaning, buckets=SECONDS, registry=self._registry)
