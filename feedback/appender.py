"""Adding to the log, and the one way in which something leaves it. Each function is one piece of a transaction.

All of them may be run again: a row that is there with equal content is left as it is. "Raises Refused" means that
nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    RowMapping,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
)

from feedback import rows
from feedback.checks import check_clip, check_consent, check_listener, check_pair, check_rating, check_vote
from feedback.errors import Reason, Refused
from feedback.played import check_played
from feedback.reader import Reader, listener_hash
from feedback.records import Clip, Consent, Deletion, Listener, Pair, Rating, Receipt, Vote
from feedback.schema import authors, clips, consents, deletions, listeners, pairs, ratings, votes

_COUNTED_ONCE = ("seq", "recorded_us", "answered_us")  # not part of what a listener said


class Appender:
    """Writes over one connection. `at` is the moment of recording, now unless an import brings its own."""

    def __init__(self, connection: Connection, at: datetime | None = None) -> None:
        self._connection, self._reader = connection, Reader(connection)
        self._at_us = rows.microseconds(at or datetime.now(UTC))

    def at(self, moment: datetime) -> Appender:
        """The same transaction, recording as of `moment`."""
        return Appender(self._connection, moment)

    def is_new(self, key: Column, value: str) -> bool:
        """Whether no row has this value in this unique column."""
        return self._reader.row(key, value) is None

    def equal_or_new(self, clip: Clip) -> bool:
        """Whether `add_clip` would take it."""
        there = self._reader.row(clips.c.clip_id, clip.clip_id)
        return there is None or _equal(there, rows.clip_row(clip))

    def add_clip(self, clip: Clip) -> bool:
        """-> False where it was there. Raises Refused: invalid, conflict."""
        check_clip(clip)
        return self._add(clips, clips.c.clip_id, rows.clip_row(clip))

    def add_pair(self, pair: Pair) -> bool:
        """-> False where it was there. Raises Refused: invalid, conflict, unknown clip or author, gone author."""
        check_pair(pair)
        if pair.asked_by:
            self._reader.listener(pair.asked_by)
        there = self._reader.row(pairs.c.pair_id, pair.pair_id)
        if there is None:
            self._require_clip("clip_a", pair.clip_a)
            self._require_clip("clip_b", pair.clip_b)
        elif (there["asked_by"] or "") != pair.asked_by:
            raise Refused(Reason.CONFLICT, "pair_id", "known with another author")
        added = self._add(pairs, pairs.c.pair_id, rows.pair_row(pair))
        if added and pair.asked_by:
            self._connection.execute(insert(authors), {"pair_id": pair.pair_id, "listener_id": pair.asked_by})
        return added

    def add_listener(self, listener: Listener) -> bool:
        """With their first consent. -> False where they were there, whatever their consent by now.

        Raises Refused: invalid, conflict, gone.
        """
        check_listener(listener)
        if self._reader.deletion(listener_hash(listener.listener_id)) is not None:
            raise Refused(Reason.GONE, "listener_id", "this listener was deleted at their own wish")
        row = {"listener_id": listener.listener_id, "kind": str(listener.kind), "listener_group": listener.group}
        added = self._add(listeners, listeners.c.listener_id, row)
        if added:
            self._give_consent(listener.listener_id, listener.consent, self._at_us)
        return added

    def set_consent(self, listener_id: str, consent: Consent) -> bool:
        """-> False where it is the newest already. Raises Refused: invalid, unknown, gone."""
        check_consent(consent)
        if self._reader.listener(listener_id).consent == consent:
            return False
        newest_us = self._reader.row(listeners.c.listener_id, listener_id)["given_us"]  # type: ignore[index]
        self._give_consent(listener_id, consent, max(self._at_us, newest_us + 1))  # clocks may step back
        return True

    def note_consent(self, listener_id: str, consent: Consent) -> bool:
        """One that was given at the moment of this appender, maybe before others. -> False where it was there."""
        check_consent(consent)
        self._reader.listener(listener_id)
        there = (consents.c.listener_id == listener_id) & (consents.c.given_us == self._at_us)
        if self._connection.execute(select(consents.c.seq).where(there, consents.c.consent == consent)).first():
            return False
        self._give_consent(listener_id, consent, self._at_us)
        return True

    def record_vote(self, vote: Vote) -> Receipt:
        """Raises Refused: invalid, unknown pair or listener, gone, conflict."""
        check_vote(vote)
        return self._record(votes, votes.c.vote_id, vote, rows.vote_row(vote))

    def record_rating(self, rating: Rating) -> Receipt:
        """Raises Refused: invalid, unknown pair or listener, gone, conflict."""
        check_rating(rating)
        return self._record(ratings, ratings.c.rating_id, rating, rows.rating_row(rating))

    def delete_listener(self, listener_id: str) -> tuple[Deletion, set[str]]:
        """Removes the listener, their answers and consents, the pairs that they alone asked for and answered, and
        those pairs' clips. -> what is kept of it, and the files that no clip needs any more.

        Raises Refused (unknown). Of a listener who is gone, the deletion of then.
        """
        earlier = self._reader.deletion(listener_hash(listener_id))
        if earlier is not None:
            return earlier, set()
        self._reader.listener(listener_id)
        removed = {
            table.name: self._connection.execute(delete(table).where(table.c.listener_id == listener_id)).rowcount
            for table in (votes, ratings)
        }
        own_pairs, own_clips = self._pairs_of(listener_id)
        self._connection.execute(delete(authors).where(authors.c.listener_id == listener_id))
        for pair_id in own_pairs:
            self._connection.execute(delete(pairs).where(pairs.c.pair_id == pair_id))
        files = {name for clip_id in sorted(own_clips) for name in self._remove_clip(clip_id)}
        for table in (consents, listeners):
            self._connection.execute(delete(table).where(table.c.listener_id == listener_id))
        deletion = Deletion(listener_hash(listener_id), rows.moment(self._at_us), **removed, pairs=len(own_pairs))
        self.note_deletion(deletion)
        return deletion, {name for name in files if not self._needed(name)}

    def note_deletion(self, deletion: Deletion) -> bool:
        """-> False where one of this listener is noted."""
        if self._reader.deletion(deletion.listener_hash) is not None:
            return False
        numbers = {"votes": deletion.votes, "ratings": deletion.ratings, "pairs": deletion.pairs}
        row = {"listener_hash": deletion.listener_hash, "deleted_us": rows.microseconds(deletion.deleted_at)}
        self._connection.execute(insert(deletions), row | numbers)
        return True

    def _record(self, table: Table, record_id: Column, answer: Vote | Rating, row: dict[str, Any]) -> Receipt:
        if receipt := self._receipt(record_id, row):
            return receipt
        ids = {"listener": answer.listener_id, "pair": answer.pair_id}
        facts = self._connection.execute(_facts(table), ids).first()
        if facts is None:
            raise Refused(Reason.UNKNOWN, "pair_id", "no such pair")
        if not facts.listener_known:
            self._reader.listener(answer.listener_id)  # says whether unknown or gone
        check_played(answer.played_a, facts.seconds_a, "played_a")
        check_played(answer.played_b, facts.seconds_b, "played_b")
        if facts.answered:
            if receipt := self._receipt(record_id, row):  # another process wrote it since the first look
                return receipt
            raise Refused(Reason.CONFLICT, "pair_id", "this listener has answered this pair")
        self._connection.execute(insert(table), row | {"recorded_us": self._at_us})
        return Receipt(row[record_id.name], rows.moment(self._at_us))

    def _receipt(self, record_id: Column, row: dict[str, Any]) -> Receipt | None:
        """Of an answer that is there already. Raises Refused for its id with another content."""
        there = self._reader.row(record_id, row[record_id.name])
        if there is None:
            return None
        if not _equal(there, row):
            raise Refused(Reason.CONFLICT, record_id.name, "known with another content")
        return Receipt(there[record_id.name], rows.moment(there["recorded_us"]))

    def _add(self, table: Table, key: Column, row: dict[str, Any]) -> bool:
        there = self._reader.row(key, row[key.name])
        if there is None:
            self._connection.execute(insert(table), row)
        elif not _equal(there, row):
            raise Refused(Reason.CONFLICT, key.name, "known with another content")
        return there is None

    def _give_consent(self, listener_id: str, consent: Consent, given_us: int) -> None:
        row = {"listener_id": listener_id, "consent": str(consent), "given_us": given_us}
        self._connection.execute(insert(consents), row)

    def _require_clip(self, field: str, clip_id: str) -> None:
        if self._reader.row(clips.c.clip_id, clip_id) is None:
            raise Refused(Reason.UNKNOWN, field, "no such clip")

    def _pairs_of(self, listener_id: str) -> tuple[list[str], set[str]]:
        """Pairs that the listener asked for and nobody (else) answered, and the clips in them."""
        answered = or_(*(exists().where(table.c.pair_id == pairs.c.pair_id) for table in (votes, ratings)))
        query = (
            select(pairs.c.pair_id, pairs.c.clip_a, pairs.c.clip_b)
            .join(authors, authors.c.pair_id == pairs.c.pair_id)
            .where(authors.c.listener_id == listener_id, ~answered)
        )
        found = self._connection.execute(query).all()
        return [row.pair_id for row in found], {clip for row in found for clip in (row.clip_a, row.clip_b)}

    def _remove_clip(self, clip_id: str) -> set[str]:
        """Removes a clip in no pair. -> its files."""
        used = select(func.count()).where(or_(pairs.c.clip_a == clip_id, pairs.c.clip_b == clip_id))
        if self._connection.execute(used).scalar_one():
            return set()
        clip = self._reader.clip(clip_id)
        self._connection.execute(delete(clips).where(clips.c.clip_id == clip_id))
        return {f"{clip.audio_sha256}.flac", clip.original} - {""}

    def _needed(self, name: str) -> bool:
        stem = name.partition(".")[0]
        asked = or_(clips.c.clip_id == stem, clips.c.audio == stem, clips.c.original == name)
        return bool(self._connection.execute(select(func.count()).where(asked)).scalar_one())


@cache
def _facts(table: Table) -> Select[Any]:
    """All that decides about an answer of :listener to :pair, in one query."""
    clip_a, clip_b = clips.alias("clip_a"), clips.alias("clip_b")
    known = exists().where(listeners.c.listener_id == bindparam("listener"))
    answered = exists().where(table.c.listener_id == bindparam("listener"), table.c.pair_id == bindparam("pair"))
    return (
        select(clip_a.c.seconds.label("seconds_a"), clip_b.c.seconds.label("seconds_b"))
        .add_columns(known.label("listener_known"), answered.label("answered"))
        .select_from(pairs)
        .join(clip_a, clip_a.c.clip_id == pairs.c.clip_a)
        .join(clip_b, clip_b.c.clip_id == pairs.c.clip_b)
        .where(pairs.c.pair_id == bindparam("pair"))
    )


def _equal(there: RowMapping, row: Mapping[str, Any]) -> bool:
    """Bytes come back from PostgreSQL as they went in, from some drivers as a view."""
    return all(_plain(there[name]) == _plain(value) for name, value in row.items() if name not in _COUNTED_ONCE)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
