"""Reading the log: everything of one `Reader` comes from one snapshot, in the order in which it was recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, RowMapping, Select, Table, bindparam, exists, func, or_, select

from feedback import rows
from feedback.errors import Reason, Refused
from feedback.records import Clip, Consent, Counts, Deletion, Listener, Pair, Rating, Vote
from feedback.schema import authors, clips, consents, deletions, listeners, pairs, ratings, votes

_CHUNK = 500  # rows held at once


class Reader:
    """Queries over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def clip(self, clip_id: str) -> Clip:
        """Raises Refused (unknown)."""
        row = self._first(by(clips.c.clip_id), clip_id)
        if row is None:
            raise Refused(Reason.UNKNOWN, "clip_id", "no such clip")
        return rows.clip_of(row)

    def pair(self, pair_id: str) -> Pair:
        """Raises Refused (unknown)."""
        row = self._first(by(pairs.c.pair_id), pair_id)
        if row is None:
            raise Refused(Reason.UNKNOWN, "pair_id", "no such pair")
        return rows.pair_of(row)

    def listener(self, listener_id: str) -> Listener:
        """With the newest consent. Raises Refused: unknown, or gone after a deletion."""
        row = self._first(by(listeners.c.listener_id), listener_id)
        if row is not None:
            return rows.listener_of(row)
        if self.deletion(listener_hash(listener_id)) is not None:
            raise Refused(Reason.GONE, "listener_id", "this listener was deleted at their own wish")
        raise Refused(Reason.UNKNOWN, "listener_id", "no such listener")

    def deletion(self, hashed: str) -> Deletion | None:
        row = self._first(by(deletions.c.listener_hash), hashed)
        return None if row is None else rows.deletion_of(row)

    def vote_of(self, listener_id: str, pair_id: str) -> Vote | None:
        row = self.answer_row(votes, listener_id, pair_id)
        return None if row is None else rows.vote_of(row)

    def rating_of(self, listener_id: str, pair_id: str) -> Rating | None:
        row = self.answer_row(ratings, listener_id, pair_id)
        return None if row is None else rows.rating_of(row)

    def answer_row(self, table: Table, listener_id: str, pair_id: str) -> RowMapping | None:
        query = by(table.c.listener_id).where(table.c.pair_id == pair_id)
        return self._first(query, listener_id)

    def votes(
        self, min_heard_s: float = 0.0, study: str | None = None, listener_id: str | None = None
    ) -> Iterator[Vote]:
        """Votes of those who heard at least so much of each clip."""
        return (rows.vote_of(row) for row in self._stream(_answers(votes, min_heard_s, study, listener_id)))

    def ratings(
        self, min_heard_s: float = 0.0, study: str | None = None, listener_id: str | None = None
    ) -> Iterator[Rating]:
        """Ratings by those who heard at least so much of each clip."""
        return (rows.rating_of(row) for row in self._stream(_answers(ratings, min_heard_s, study, listener_id)))

    def receipts(self, record_id: Column) -> Iterator[tuple[str, datetime]]:
        """Ids of votes or ratings and when they were recorded, in the order of `votes` and `ratings`."""
        query = select(record_id, record_id.table.c.recorded_us).order_by(record_id.table.c.seq)
        return ((row[record_id.name], rows.moment(row["recorded_us"])) for row in self._stream(query))

    def pairs(self, study: str | None = None, answered: bool | None = None) -> Iterator[Pair]:
        """Pairs of a study ("": free use), with or without any vote or rating."""
        query = _pairs().order_by(pairs.c.seq)
        if study is not None:
            query = query.where(pairs.c.study == study)
        if answered is not None:
            has_one = or_(*(exists().where(table.c.pair_id == pairs.c.pair_id) for table in (votes, ratings)))
            query = query.where(has_one if answered else ~has_one)
        return (rows.pair_of(row) for row in self._stream(query))

    def clips(self) -> Iterator[Clip]:
        return (rows.clip_of(row) for row in self._stream(select(clips).order_by(clips.c.seq)))

    def listeners(self) -> Iterator[Listener]:
        """Each with the newest consent."""
        return (rows.listener_of(row) for row in self._stream(_listeners().order_by(listeners.c.seq)))

    def consents(self) -> Iterator[tuple[str, Consent, datetime]]:
        """Every consent that was ever given: listener, consent, when; in the order of that."""
        for row in self._stream(select(consents).order_by(consents.c.given_us, consents.c.seq)):
            yield row["listener_id"], Consent(row["consent"]), rows.moment(row["given_us"])

    def deletions(self) -> Iterator[Deletion]:
        return (rows.deletion_of(row) for row in self._stream(select(deletions).order_by(deletions.c.seq)))

    def rating_counts(self, study: str) -> dict[str, int]:
        """Raters of each pair of a study so far, pairs without any included."""
        query = (
            select(pairs.c.pair_id, func.count(ratings.c.seq).label("raters"))
            .outerjoin(ratings, ratings.c.pair_id == pairs.c.pair_id)
            .where(pairs.c.study == study)
            .group_by(pairs.c.pair_id, pairs.c.seq)
            .order_by(pairs.c.seq)
        )
        return {row["pair_id"]: row["raters"] for row in self._stream(query)}

    def counts(self) -> Counts:
        tables = (listeners, clips, pairs, votes, ratings, deletions)
        numbers = [self._connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]
        return Counts(*numbers)

    def answered_rows(self, table: Table, study: str | None = None) -> Iterator[RowMapping]:
        """Every vote or rating beside its pair, clips and listener; names of a clip's columns end in _a and _b."""
        return self._stream(_whole_answers(table, study))

    def audio_names(self) -> set[str]:
        """Files of the audio folder that a clip needs."""
        needed = set()
        for row in self._stream(select(clips.c.clip_id, clips.c.audio, clips.c.original)):
            needed |= {(row["audio"] or row["clip_id"]) + ".flac", row["original"]}
        return needed - {""}

    def row(self, key: Column, value: str) -> RowMapping | None:
        """The row of a table by one of its unique columns."""
        return self._first(by(key), value)

    def _first(self, query: Select, value: str) -> RowMapping | None:
        return self._connection.execute(query, {"value": value}).mappings().first()

    def _stream(self, query: Select) -> Iterator[RowMapping]:
        yield from self._connection.execute(query.execution_options(yield_per=_CHUNK)).mappings()


def listener_hash(listener_id: str) -> str:
    """What a deletion keeps of a pseudonym."""
    return hashlib.sha256(listener_id.encode()).hexdigest()


@cache  # a statement that is built once is also compiled once
def by(key: Column) -> Select[Any]:
    """Rows whose `key` is :value, pairs with their author, listeners with their newest consent."""
    whole = {"pairs": _pairs, "listeners": _listeners}
    return whole.get(key.table.name, lambda: select(key.table))().where(key == bindparam("value"))


def _pairs() -> Select[Any]:
    join = pairs.outerjoin(authors, authors.c.pair_id == pairs.c.pair_id)
    return select(pairs, authors.c.listener_id.label("asked_by")).select_from(join)


def _listeners() -> Select[Any]:
    """The newest consent by the moment it was given: an import may bring an older one later."""
    each = consents.alias()
    newest = select(each.c.seq).where(each.c.listener_id == listeners.c.listener_id).correlate(listeners)
    newest = newest.order_by(each.c.given_us.desc(), each.c.seq.desc()).limit(1)
    join = listeners.join(consents, consents.c.seq == newest.scalar_subquery())
    return select(listeners, consents.c.consent, consents.c.given_us).select_from(join)


def _whole_answers(table: Table, study: str | None) -> Select[Any]:
    clip_a, clip_b, listener = clips.alias("clip_a"), clips.alias("clip_b"), _listeners().subquery()
    names = ("clip_id", "policy", "policy_version", "seed", "seconds", "sample_rate_hz", "streams", "codes", "audio")
    sides = [clip.c[name].label(f"{name}_{side}") for side, clip in (("a", clip_a), ("b", clip_b)) for name in names]
    query = (
        select(table, pairs.c.prompt, listener.c.kind, listener.c.listener_group, listener.c.consent, *sides)
        .join(pairs, pairs.c.pair_id == table.c.pair_id)
        .join(clip_a, clip_a.c.clip_id == pairs.c.clip_a)
        .join(clip_b, clip_b.c.clip_id == pairs.c.clip_b)
        .join(listener, listener.c.listener_id == table.c.listener_id)
        .order_by(table.c.seq)
    )
    return query if study is None else query.where(pairs.c.study == study)


def _answers(table: Table, min_heard_s: float, study: str | None, listener_id: str | None) -> Select[Any]:
    query = select(table).order_by(table.c.seq)
    if min_heard_s > 0:
        query = query.where(table.c.heard_a_s >= min_heard_s, table.c.heard_b_s >= min_heard_s)
    if study is not None:
        query = query.join(pairs, pairs.c.pair_id == table.c.pair_id).where(pairs.c.study == study)
    if listener_id is not None:
        query = query.where(table.c.listener_id == listener_id)
    return query
