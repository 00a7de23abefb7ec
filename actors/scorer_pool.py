"""Scores a rollout with every reward of the run, and finds the clips that a reward cannot score.

    whole batch ── ok ──▶ done (a NaN clip is "non_finite")
        │ raised, wrong shape, all NaN: halves, down to single clips
        │ too slow: small pieces with a short deadline, then single clips
        ▼
    guilty clips get "error" | "timeout" | "non_finite"; the others get their scores

The work is bounded: an error is looked for in at most 2B - 1 calls, and all that is waited for after the first timeout
or lost actor is two further deadlines; what is unscored by then counts as guilty. A reward that scores no clip at all
ends the run in one line.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from actors.scorer import ScoreReply
from cluster.errors import RunFailed
from cluster.supervision import ActorLost, CallTimedOut
from rewards.port import ScoreStatus, ScoreTable

PIECES = 8  # a batch that was too slow is cut into so many
SHORTEST_DEADLINE_S = 0.25
EXTRA_DEADLINES = 2.0  # waited for in all, after the first one passed
GIVE_UP_AFTER_CLIPS = 8  # unscored in a row, over whole batches, before the run ends
GRACE_S = 2.0  # between the scorer's own alarm and the pool's deadline, which costs the actor


class Pool(Protocol):
    """The part of cluster.supervision.ActorPool that is needed here."""

    async def call(
        self, method: str, *args: Any, deadline_s: float | None = None, retries: int = 3, charge: bool = True
    ) -> Any: ...


@dataclass(frozen=True)
class Piece:
    """Rows of a batch to score in one call."""

    rows: tuple[int, ...]
    deadline_s: float
    short_deadline_s: float  # of the pieces that a timeout leaves


@dataclass
class Search:
    """One reward's work on one batch: what is known, what is left to try, what it cost."""

    scores: np.ndarray  # [B] float32, NaN: unknown
    status: list[ScoreStatus]  # what is never asked for, because patience ended, counts as timeout
    left: deque[Piece]
    patience_s: float  # that may still be spent on pieces that fail slowly
    reason: str = ""
    seconds: float = 0.0
    version: str = ""

    @property
    def scored(self) -> int:
        return sum(status == "ok" for status in self.status)


@dataclass
class ScorerPool:
    """`deadlines_s`: of one whole batch, by reward NAME (RewardConfig.deadline_s). `on_failure(name, status, clips)`
    hears of every clip that got no score."""

    pool: Pool
    deadlines_s: Mapping[str, float]
    epoch: str
    on_failure: Callable[[str, ScoreStatus, int], None] | None = None
    give_up_after: int = GIVE_UP_AFTER_CLIPS
    failures: Counter[tuple[str, ScoreStatus]] = field(default_factory=Counter)
    _unscored_in_a_row: Counter[str] = field(default_factory=Counter)
    _versions: dict[str, str] = field(default_factory=dict)

    async def score(self, clips: Any, rows: int) -> ScoreTable:
        """Every reward's scores of the `rows` clips behind `clips` (a ClipBatch, a Rollout, or a reference to either).

        Raises RunFailed when a reward fails for all clips.
        """
        names = list(self.deadlines_s)
        found = await asyncio.gather(*(self._score_one(name, clips, rows) for name in names))
        searches = dict(zip(names, found, strict=True))
        return ScoreTable(
            scores={name: search.scores for name, search in searches.items()},
            status={name: tuple(search.status) for name, search in searches.items()},
            versions={name: search.version for name, search in searches.items()},
            seconds={name: search.seconds for name, search in searches.items()},
        )

    async def _score_one(self, name: str, clips: Any, rows: int) -> Search:
        deadline_s = self.deadlines_s[name]
        short_s = min(deadline_s, max(deadline_s / PIECES, SHORTEST_DEADLINE_S))
        search = Search(
            scores=np.full(rows, np.nan, dtype=np.float32),
            status=["timeout"] * rows,
            left=deque([Piece(tuple(range(rows)), deadline_s, short_s)]),
            patience_s=EXTRA_DEADLINES * deadline_s,
            version=self._versions.get(name, ""),
        )
        while search.left and search.patience_s > 0:
            piece = search.left.popleft()
            whole = len(piece.rows) == rows
            reply = await self._ask(name, clips, piece, whole)
            _note(search, piece, reply, whole)
        self._versions[name] = search.version
        self._count(name, search)
        return search

    async def _ask(self, name: str, clips: Any, piece: Piece, whole: bool) -> ScoreReply:
        """One call. A lost actor is not yet the reward's fault: a whole batch is tried once more elsewhere, and only
        actors lost twice in a row are charged to the run's restarts, the others to this search's patience."""
        rows = None if whole else piece.rows
        for attempt in (1, 2):
            try:
                reply: ScoreReply = await self.pool.call(
                    "score", name, clips, rows, piece.deadline_s,
                    deadline_s=piece.deadline_s + GRACE_S, retries=0, charge=attempt == 2,
                )  # fmt: skip
            except CallTimedOut:
                return self._failure(name, "timeout", f"no score within {piece.deadline_s:g} s", piece.deadline_s)
            except ActorLost as error:
                if whole and attempt == 1:
                    continue
                return self._failure(name, "error", str(error), GRACE_S)
            if reply.epoch != self.epoch:
                raise RunFailed(f"scorer: got an answer of epoch {reply.epoch}, allowed {self.epoch}")
            return reply
        raise AssertionError("unreachable")

    def _failure(self, name: str, status: ScoreStatus, reason: str, seconds: float) -> ScoreReply:
        return ScoreReply(name, self._versions.get(name, ""), self.epoch, status, None, reason, seconds)

    def _count(self, name: str, search: Search) -> None:
        """Failures by status. Raises RunFailed when nothing gets through any more."""
        failed = Counter(status for status in search.status if status != "ok")
        for status, clips in failed.items():
            self.failures[name, status] += clips
            if self.on_failure is not None:
                self.on_failure(name, status, clips)
        if search.scored:
            self._unscored_in_a_row[name] = 0
            return
        self._unscored_in_a_row[name] += len(search.status)
        if self._unscored_in_a_row[name] >= self.give_up_after:
            clips = self._unscored_in_a_row[name]
            raise RunFailed(f"reward {name} failed for all of the last {clips} clips: {search.reason}")


def _note(search: Search, piece: Piece, reply: ScoreReply, whole: bool) -> None:
    """Takes up one answer: scores, guilt, or smaller pieces."""
    search.version = reply.version or search.version
    search.seconds += reply.seconds
    status: ScoreStatus = reply.status
    if reply.scores is not None and np.isnan(reply.scores).all():
        status = "non_finite"
    if status == "ok" and reply.scores is not None:
        for row, score in zip(piece.rows, reply.scores, strict=True):
            search.scores[row] = score
            search.status[row] = "non_finite" if math.isnan(score) else "ok"
        return
    search.reason = reply.reason or "returned no finite score"
    if not whole:
        search.patience_s -= reply.seconds
    if len(piece.rows) == 1:
        search.status[piece.rows[0]] = status
    else:
        search.left.extend(_cut(piece, status))


def _cut(piece: Piece, status: ScoreStatus) -> list[Piece]:
    """Halves, or after a timeout eighths, with a short deadline each."""
    count, deadline_s = 2, piece.deadline_s
    if status == "timeout":
        count, deadline_s = PIECES, piece.short_deadline_s
    size = -(-len(piece.rows) // count)
    chunks = [piece.rows[start : start + size] for start in range(0, len(piece.rows), size)]
    return [Piece(rows, deadline_s, piece.short_deadline_s) for rows in chunks]
