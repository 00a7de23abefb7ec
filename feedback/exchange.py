"""A whole log as a folder of Parquet files, out and in again equal: to move it, to keep it, to hand it on.

    manifest.json                                   format and version; written last
    listeners, consents, clips, pairs .parquet
    votes, ratings, deletions .parquet              with the moment of recording
    audio/ab/abcdef….flac                           the sound, and files it was made from, by content hash

A deletion travels along: who was deleted in one log is deleted from the other, and no older folder brings them back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import UserError
from cluster.storage import write_text_atomic
from feedback import tables
from feedback.appender import Appender
from feedback.audio_store import FLAC, AudioStore
from feedback.checks import check_clip
from feedback.errors import Reason, Refused
from feedback.preference_log import BATCH, PreferenceLog, check_sound
from feedback.reader import Reader, listener_hash
from feedback.records import (
    Choice,
    Clip,
    Consent,
    Deletion,
    ExchangeReport,
    Listener,
    ListenerKind,
    Pair,
    Played,
    Rating,
    Vote,
)
from feedback.schema import ratings, votes

FORMAT, VERSION = "musicrl-preference-log", 1
MANIFEST, AUDIO = "manifest.json", "audio"
Row = dict[str, Any]


def reason_of(refusal: Refused) -> str:
    """A refusal as a reason of an ExchangeReport."""
    kind = "deleted" if refusal.reason is Reason.GONE else str(refusal.reason)
    return f"{kind}: {refusal}"


def require_empty(folder: str | Path) -> Path:
    """Raises UserError where `folder` is something else than a new or empty folder."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"path: got {path}, which is there already, allowed a new or an empty folder")
    return path


# -- out ----------------------------------------------------------------------------------------------------------


def export_log(log: PreferenceLog, folder: str | Path) -> ExchangeReport:
    """Writes a new folder, all of one moment. Clips without their sound are left out, with what hangs on them.

    Raises UserError: the folder has something in it.
    """
    folder = require_empty(folder)
    with log.snapshot() as reader:
        out = _Exporter(reader, log.audio, folder)
        out.write("listeners", tables.LISTENERS, _listener_rows(reader))
        out.write("consents", tables.CONSENTS, _consent_rows(reader))
        out.write("clips", tables.CLIPS, out.clip_rows())
        out.write("pairs", tables.PAIRS, out.pair_rows())
        out.write("votes", tables.VOTES, out.vote_rows())
        out.write("ratings", tables.RATINGS, out.rating_rows())
        out.write("deletions", tables.DELETIONS, (asdict(deletion) for deletion in reader.deletions()))
    manifest = {"format": FORMAT, "version": VERSION, "rows": out.report.tables}
    write_text_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return out.report


class _Exporter:
    """Rows of each table; notes what had to stay behind, so that what hangs on it stays too."""

    def __init__(self, reader: Reader, audio: AudioStore, folder: Path) -> None:
        self.report = ExchangeReport()
        self._reader, self._audio, self._folder = reader, audio, folder
        self._sound = AudioStore(folder / AUDIO)
        self._missing: set[str] = set()  # ids of clips and pairs that stay behind

    def write(self, name: str, schema: pa.Schema, rows: Iterable[Row]) -> None:
        self.report.take(name, tables.write_rows(self._folder / f"{name}.parquet", schema, rows))

    def clip_rows(self) -> Iterator[Row]:
        for clip in self._reader.clips():
            files = [self._audio.read(name) for name in (clip.audio_sha256 + FLAC, clip.original) if name]
            if None in files:
                self._missing.add(clip.clip_id)
                self.report.leave_out(f"clip {clip.clip_id}", "missing audio: not in the audio folder, or changed")
                continue
            self._sound.put(files[0] or b"")
            if clip.original:
                self._sound.put(files[1] or b"", Path(clip.original).suffix)
            codes = None if clip.codes is None else list(clip.codes)
            yield {name: getattr(clip, name) for name in tables.CLIPS.names} | {"codes": codes}

    def pair_rows(self) -> Iterator[Row]:
        for pair in self._reader.pairs():
            if {pair.clip_a, pair.clip_b} & self._missing:
                self._missing.add(pair.pair_id)
                self.report.leave_out(f"pair {pair.pair_id}", "missing audio: a clip was left out")
            else:
                yield asdict(pair)

    def vote_rows(self) -> Iterator[Row]:
        for vote, (_, recorded_at) in zip(self._reader.votes(), self._reader.receipts(votes.c.vote_id), strict=True):
            if self._is_left(f"vote {vote.vote_id}", vote):
                continue
            yield _answer_row(vote) | {"recorded_at": recorded_at}

    def rating_rows(self) -> Iterator[Row]:
        for rating, (_, recorded_at) in zip(
            self._reader.ratings(), self._reader.receipts(ratings.c.rating_id), strict=True
        ):
            if self._is_left(f"rating {rating.rating_id}", rating):
                continue
            yield _answer_row(rating) | {"recorded_at": recorded_at}

    def _is_left(self, row: str, answer: Vote | Rating) -> bool:
        if answer.pair_id in self._missing:
            self.report.leave_out(row, "missing audio: its pair was left out")
        return answer.pair_id in self._missing


def _listener_rows(reader: Reader) -> Iterator[Row]:
    for listener in reader.listeners():
        yield {"listener_id": listener.listener_id, "kind": str(listener.kind), "group": listener.group}


def _consent_rows(reader: Reader) -> Iterator[Row]:
    for listener_id, consent, given_at in reader.consents():
        yield {"listener_id": listener_id, "consent": str(consent), "given_at": given_at}


def _answer_row(answer: Vote | Rating) -> Row:
    ranges = {side: list(getattr(answer, side).ranges) for side in ("played_a", "played_b")}
    return {name: value for name, value in vars(answer).items() if name not in ranges} | ranges


# -- in -----------------------------------------------------------------------------------------------------------


def import_log(log: PreferenceLog, folder: str | Path) -> ExchangeReport:
    """Adds what `export_log` wrote. Rows that are there already stay; those that contradict the log are left out.

    Raises UserError: no such folder, or a file of it cannot be read.
    """
    folder = Path(folder)
    _check_manifest(folder)
    into = _Importer(log, folder)
    into.deletions()
    into.listeners()
    into.rows("clips", tables.CLIPS, into.clip_of, lambda appender, clip: appender.add_clip(clip))
    into.rows("pairs", tables.PAIRS, lambda row: Pair(**row), lambda appender, pair: appender.add_pair(pair))
    into.rows("votes", tables.VOTES, _vote_of, _add_vote)
    into.rows("ratings", tables.RATINGS, _rating_of, _add_rating)
    return into.report


class _Importer:
    """Reads a folder table by table, in the order in which rows need each other."""

    def __init__(self, log: PreferenceLog, folder: Path) -> None:
        self.report = ExchangeReport()
        self._log, self._folder, self._sound = log, folder, AudioStore(folder / AUDIO)

    def rows(
        self, table: str, schema: pa.Schema, record_of: Callable[[Row], Any], add: Callable[[Appender, Any], bool]
    ) -> None:
        """Every row of a table: to a record, into the log, into the report."""
        for group in tables.in_groups(tables.read_rows(self._folder / f"{table}.parquet", schema), BATCH):
            records: list[tuple[str, Any, datetime | None]] = []
            for row in group:
                name = f"{table[:-1]} {row[schema.names[0]]}"
                recorded_at = row.pop("recorded_at", None)
                try:
                    records.append((name, record_of(row), recorded_at))
                except Refused as refusal:
                    self.report.leave_out(name, reason_of(refusal))
                except (ValueError, TypeError, OverflowError) as error:
                    self.report.leave_out(name, f"unknown value: {str(error).splitlines()[0]}")
            outcomes = self._log.write_many(lambda connection, one: add(Appender(connection, one[2]), one[1]), records)
            for (name, _, _), outcome in zip(records, outcomes, strict=True):
                self._note(table, name, outcome)

    def deletions(self) -> None:
        """Before all else: who is deleted there must not come in, and goes here too."""
        here = {listener_hash(listener.listener_id): listener.listener_id for listener in self._log.listeners()}
        for row in tables.read_rows(self._folder / "deletions.parquet", tables.DELETIONS):
            deletion = Deletion(**row)
            if deletion.listener_hash in here:
                self._log.delete_listener(here[deletion.listener_hash])
                self.report.take("deletions")
                continue
            added = self._log.write_many(lambda connection, one: Appender(connection).note_deletion(one), [deletion])
            self._note("deletions", f"deletion {deletion.listener_hash}", added[0])

    def listeners(self) -> None:
        """With every consent that they gave, when they gave it."""
        given: dict[str, list[tuple[Consent, datetime]]] = {}
        for row in tables.read_rows(self._folder / "consents.parquet", tables.CONSENTS):
            with suppress(ValueError):
                given.setdefault(row["listener_id"], []).append((Consent(row["consent"]), row["given_at"]))

        def record_of(row: Row) -> tuple[Listener, list[tuple[Consent, datetime]]]:
            consents = given.get(row["listener_id"])
            if not consents:
                raise ValueError("a listener without a consent")
            return Listener(row["listener_id"], ListenerKind(row["kind"]), consents[0][0], row["group"]), consents

        self.rows("listeners", tables.LISTENERS, record_of, _add_listener)

    def clip_of(self, row: Row) -> Clip:
        """The clip of a row, once its files are in the log's own folder. Raises Refused (invalid)."""
        codes = None if row["codes"] is None else np.array(row["codes"], dtype=np.uint16)
        clip = Clip(**{**row, "codes": codes})
        flac = self._sound.read(clip.audio_sha256 + FLAC)
        original = self._sound.read(clip.original) if clip.original else b""
        if flac is None or original is None:
            raise Refused(Reason.INVALID, "missing audio", "no such file in the folder, or a changed one")
        check_clip(clip)
        check_sound(clip, flac)
        self._log.audio.put(flac)
        if original:
            self._log.audio.put(original, Path(clip.original).suffix)
        return clip

    def _note(self, table: str, row: str, outcome: bool | Refused) -> None:
        if isinstance(outcome, Refused):
            self.report.leave_out(row, reason_of(outcome))
        elif outcome:
            self.report.take(table)
        else:
            self.report.present += 1


def _add_listener(appender: Appender, found: tuple[Listener, list[tuple[Consent, datetime]]]) -> bool:
    listener, consents = found
    added = appender.at(consents[0][1]).add_listener(listener)
    for consent, given_at in consents:
        appender.at(given_at).note_consent(listener.listener_id, consent)
    return added


def _add_vote(appender: Appender, vote: Vote) -> bool:
    is_new = appender.is_new(votes.c.vote_id, vote.vote_id)
    appender.record_vote(vote)
    return is_new


def _add_rating(appender: Appender, rating: Rating) -> bool:
    is_new = appender.is_new(ratings.c.rating_id, rating.rating_id)
    appender.record_rating(rating)
    return is_new


def _vote_of(row: Row) -> Vote:
    return Vote(**_with_ranges(row) | {"choice": Choice(row["choice"])})


def _rating_of(row: Row) -> Rating:
    return Rating(**_with_ranges(row))


def _with_ranges(row: Row) -> Row:
    return row | {side: Played(tuple(tuple(edges) for edges in row[side])) for side in ("played_a", "played_b")}


def _check_manifest(folder: Path) -> None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(f"path: got {folder} without a {MANIFEST} of version {VERSION}, allowed an exported log")
