"""The log of what listeners were played and what they preferred.

One `PreferenceLog` may be used by many threads, and one database by many processes, each with a log of its own.
Every method blocks; a web app calls it in a thread. What returns is durable.

Raises, besides what a method names: `Unavailable` when the database or the disk does not answer, `Refused` for what
is wrong and stays wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sqlalchemy import Connection

from cluster.errors import UserError
from feedback.appender import Appender
from feedback.audio_store import FLAC, AudioStore
from feedback.checks import check_clip
from feedback.database import Database, open_database
from feedback.errors import Reason, Refused
from feedback.flac import FlacFacts, read_flac, sha256
from feedback.group_writer import GroupWriter
from feedback.reader import Reader
from feedback.records import Clip, Consent, Counts, Deletion, Listener, Pair, Rating, Receipt, Vote

DEADLINE_S = 5.0
BATCH = 500  # rows of a bulk write in one transaction
ORPHAN_S = 3600.0  # a file may wait so long for the row of its clip
LENGTH_TOLERANCE_S = 0.01
R = TypeVar("R")
T = TypeVar("T")


class PreferenceLog:
    """Open with `PreferenceLog.open(url)`; close it, or use it as a context manager."""

    def __init__(self, database: Database, audio: AudioStore, deadline_s: float = DEADLINE_S) -> None:
        self._database, self.audio = database, audio
        self._writer = GroupWriter(database, deadline_s)

    @classmethod
    def open(cls, url: str, audio_dir: str | Path | None = None, deadline_s: float = DEADLINE_S) -> PreferenceLog:
        """url: a path or sqlite:///PATH, made if it is not there, or postgresql://…; older tables are migrated.

        audio_dir: where the FLAC files are, on a disk that all who open the log share; default `audio` beside the
        SQLite file. deadline_s: how long a write may wait for others. Raises UserError.
        """
        database = open_database(url)
        folder = Path(audio_dir).expanduser() if audio_dir else _default_audio_dir(database)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"audio_dir: got {folder} ({error.strerror}), allowed a folder") from None
        return cls(database, AudioStore(folder), deadline_s)

    def close(self) -> None:
        """Finishes what waits to be written."""
        self._writer.close()
        self._database.close()

    def __enter__(self) -> PreferenceLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Without its password."""
        return self._database.shown_url

    def ping(self) -> None:
        """Returns if the database answers."""
        with self.snapshot() as reader:
            reader.deletion("")

    # -- writing ------------------------------------------------------------------------------------------------

    def add_clip(self, clip: Clip, flac: bytes) -> None:
        """Stores the sound under its hash, then the clip. Adding an equal clip again changes nothing.

        Raises Refused: conflict; invalid, also for bytes that are no whole FLAC file of this hash, rate and length.
        """
        check_clip(clip)
        check_sound(clip, flac)
        self.audio.put(flac)
        self._writer.write(lambda connection: Appender(connection).add_clip(clip))
        self.audio.put(flac)  # a deletion in between may have taken the file, not the row

    def add_pair(self, pair: Pair) -> None:
        """Raises Refused: invalid, conflict, unknown clip or author, gone author."""
        self._writer.write(lambda connection: Appender(connection).add_pair(pair))

    def add_pairs(self, added: Iterable[Pair]) -> None:
        """All or, within a few hundred, none: ends at the first that is refused."""
        for batch in _batches(added):
            self._writer.write(partial(_add_all, batch))

    def add_listener(self, listener: Listener) -> None:
        """With their first consent; that of a listener who is there stays. Raises Refused: invalid, conflict, gone."""
        self._writer.write(lambda connection: Appender(connection).add_listener(listener))

    def set_consent(self, listener_id: str, consent: Consent) -> None:
        """Appends; the newest counts, for all votes of the listener. Raises Refused: invalid, unknown, gone."""
        self._writer.write(lambda connection: Appender(connection).set_consent(listener_id, consent))

    def record_vote(self, vote: Vote) -> Receipt:
        """The receipt says that the vote is durable. The same vote again, whatever its `voted_at`, gets the same one.

        Raises Refused: invalid; unknown pair or listener; gone; conflict (another vote under this id, or this
        listener's second of this pair).
        """
        return self._writer.write(lambda connection: Appender(connection).record_vote(vote))

    def record_rating(self, rating: Rating) -> Receipt:
        """As `record_vote`."""
        return self._writer.write(lambda connection: Appender(connection).record_rating(rating))

    def record_votes(self, recorded: Iterable[Vote]) -> list[Receipt | Refused]:
        """As `record_vote` of each, some hundreds in one transaction: for imports and simulated listeners."""
        return self.write_many(lambda connection, vote: Appender(connection).record_vote(vote), recorded)

    def record_ratings(self, recorded: Iterable[Rating]) -> list[Receipt | Refused]:
        """As `record_rating` of each, some hundreds in one transaction."""
        return self.write_many(lambda connection, rating: Appender(connection).record_rating(rating), recorded)

    def write_many(self, work: Callable[[Connection, R], T], records: Iterable[R]) -> list[T | Refused]:
        """`work(connection, record)` for each, some hundreds in one transaction; what is refused is in the list."""
        outcomes: list[T | Refused] = []
        for batch in _batches(records):
            outcomes += self._writer.write(partial(_each, work, batch))
        return outcomes

    def write(self, work: Callable[[Appender], T]) -> T:
        """Several things that belong together: all of `work` or nothing. Raises Refused when it does."""
        return self._writer.write(lambda connection: work(Appender(connection)))

    def delete_listener(self, listener_id: str) -> Deletion:
        """Removes what the listener left: answers, consents, the pairs that they alone asked for and answered, with
        clips and sound. Only the fact is kept, under a hash. Raises Refused (unknown); again: the deletion of then.
        """
        deletion, files = self._writer.write(lambda connection: Appender(connection).delete_listener(listener_id))
        for name in files:
            self.audio.remove(name)
        self._database.forget_deleted()
        return deletion

    def sweep_audio(self, older_than_s: float = ORPHAN_S) -> list[str]:
        """Removes files that no clip needs: left by a process killed between file and row, or while deleting.

        older_than_s: younger ones may be waiting for their row.
        """
        found = list(self.audio.names(older_than_s))
        with self.snapshot() as reader:
            needed = reader.audio_names()
        left = [name for name in found if name not in needed]
        for name in left:
            self.audio.remove(name)
        return left

    # -- reading ------------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """All that is read through it is of one moment."""
        with self._database.reading() as connection:
            yield Reader(connection)

    def clip(self, clip_id: str) -> Clip:
        """Raises Refused (unknown)."""
        with self.snapshot() as reader:
            return reader.clip(clip_id)

    def pair(self, pair_id: str) -> Pair:
        """Raises Refused (unknown)."""
        with self.snapshot() as reader:
            return reader.pair(pair_id)

    def listener(self, listener_id: str) -> Listener:
        """With the newest consent. Raises Refused: unknown, gone."""
        with self.snapshot() as reader:
            return reader.listener(listener_id)

    def audio_path(self, clip_id: str) -> Path:
        """The FLAC file of a clip. Raises Refused (unknown)."""
        return self.audio.path(self.clip(clip_id).audio_sha256 + FLAC)

    def vote_of(self, listener_id: str, pair_id: str) -> Vote | None:
        with self.snapshot() as reader:
            return reader.vote_of(listener_id, pair_id)

    def rating_of(self, listener_id: str, pair_id: str) -> Rating | None:
        with self.snapshot() as reader:
            return reader.rating_of(listener_id, pair_id)

    def votes(
        self, min_heard_s: float = 0.0, study: str | None = None, listener_id: str | None = None
    ) -> Iterator[Vote]:
        """In the order of recording. min_heard_s: of each clip; study: None for all, "" for free use of the app."""
        with self.snapshot() as reader:
            yield from reader.votes(min_heard_s, study, listener_id)

    def ratings(
        self, min_heard_s: float = 0.0, study: str | None = None, listener_id: str | None = None
    ) -> Iterator[Rating]:
        """As `votes`."""
        with self.snapshot() as reader:
            yield from reader.ratings(min_heard_s, study, listener_id)

    def pairs(self, study: str | None = None, answered: bool | None = None) -> Iterator[Pair]:
        """answered: with or without any vote or rating, None for all."""
        with self.snapshot() as reader:
            yield from reader.pairs(study, answered)

    def clips(self) -> Iterator[Clip]:
        with self.snapshot() as reader:
            yield from reader.clips()

    def listeners(self) -> Iterator[Listener]:
        """Each with the newest consent."""
        with self.snapshot() as reader:
            yield from reader.listeners()

    def deletions(self) -> Iterator[Deletion]:
        with self.snapshot() as reader:
            yield from reader.deletions()

    def rating_counts(self, study: str) -> dict[str, int]:
        """Raters of each pair of a study so far, pairs without any included."""
        with self.snapshot() as reader:
            return reader.rating_counts(study)

    def counts(self) -> Counts:
        with self.snapshot() as reader:
            return reader.counts()


def check_sound(clip: Clip, flac: bytes) -> FlacFacts:
    """Raises Refused (invalid) where `flac` is not the whole sound that `clip` describes."""
    if sha256(flac) != clip.audio_sha256:
        raise Refused(Reason.INVALID, "audio", "its SHA-256 is not that of the clip")
    facts = read_flac(flac)
    if facts.sample_rate_hz != clip.sample_rate_hz:
        raise Refused(Reason.INVALID, "sample_rate_hz", f"got {clip.sample_rate_hz}, its file {facts.sample_rate_hz}")
    if not math.isclose(facts.seconds, clip.seconds, rel_tol=0, abs_tol=LENGTH_TOLERANCE_S):
        raise Refused(Reason.INVALID, "seconds", f"got {clip.seconds:g}, its file {facts.seconds:g}")
    return facts


def _each(work: Callable[[Connection, R], T], records: Sequence[R], connection: Connection) -> list[T | Refused]:
    outcomes: list[T | Refused] = []
    for record in records:
        try:
            outcomes.append(work(connection, record))
        except Refused as refusal:  # raised before anything is changed
            outcomes.append(refusal)
    return outcomes


def _add_all(added: Sequence[Pair], connection: Connection) -> None:
    for pair in added:
        Appender(connection).add_pair(pair)


def _batches(records: Iterable[R]) -> Iterator[Sequence[R]]:
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _default_audio_dir(database: Database) -> Path:
    if not database.is_sqlite:
        raise UserError("audio_dir: got nothing beside a PostgreSQL URL, allowed the folder of the sound files")
    return Path(str(database.url.database)).parent / "audio"
