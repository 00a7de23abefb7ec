"""What the two loops of a run share: its actors, the weights in use, what a scored rollout is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster.member import CallUnderWay
from cluster.weight_bus import Publication
from rewards.port import ScoreTable


class Pool(Protocol):
    """The part of cluster.supervision.ActorPool that the loops use."""

    name: str
    size: int
    restarts: int
    handed_back: int
    late: int

    @property
    def ready(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def longest_wait_s(self) -> float: ...

    @property
    def nodes(self) -> frozenset[str]: ...

    async def call(self, method: str, *args: Any, deadline_s: float | None = None) -> Any: ...

    async def refresh(self) -> None: ...

    def under_way(self) -> list[CallUnderWay]: ...
    def resize(self, size: int) -> None: ...

    def drain(self, seconds_left: Mapping[str, float]) -> None: ...

    def lose_nodes(self, node_ids: frozenset[str]) -> None: ...


@dataclass(frozen=True)
class Pools:
    """The actors of a run, one pool per role."""

    generator: Pool
    scorer: Pool
    replay: Pool
    learner: Pool
    evaluator: Pool

    def all(self) -> tuple[Pool, ...]:
        return (self.generator, self.scorer, self.replay, self.learner, self.evaluator)


@dataclass
class Newest:
    """The publication that generators prepare themselves with; shared with the pool that makes them do it."""

    publication: Publication | None = None
    refused: int = 0  # publications that a reader refused because their checksum differed

    @property
    def version(self) -> int:
        assert self.publication is not None
        return self.publication.version


@dataclass(frozen=True)
class Scored:
    """Scores of one rollout, and the reward they mix to."""

    table: ScoreTable
    reward: np.ndarray  # [B] float32, NaN where one is missing

    @property
    def missing(self) -> int:
        """Scores that a reward did not give."""
        return sum(status != "ok" for statuses in self.table.status.values() for status in statuses)


Score = Callable[[Any, int], Awaitable[Scored]]  # reference to the clips of a rollout, and how many
