"""An acknowledged vote is there, once, whatever is killed or stands in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import event

from feedback.errors import Unavailable
from feedback.preference_log import PreferenceLog
from feedback.reader import Reader
from tests.feedback.conftest import needs_postgres
from tests.feedback.log_parts import fill, flac_of, vote_of

VOTES = 160


def start_writer(url: str, audio: Path, listener: str, first: int = 0, last: int = VOTES) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.feedback.vote_writer", url, str(audio), listener, str(first), str(last)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_kill_9_again_and_again_loses_no_acknowledged_vote(log: PreferenceLog, log_url: str, tmp_path: Path) -> None:
    fill(log, pairs=VOTES)
    acknowledged: set[str] = set()
    for after in (1, 20, 60):
        with start_writer(log_url, tmp_path / "audio", "ann") as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "open\n"
            for _ in range(after):
                acknowledged.add(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {line.strip() for line in writer.stdout if line.endswith("\n")}
    assert 60 <= len(acknowledged) < VOTES
    stored = Counter(vote.vote_id for vote in log.votes())
    assert acknowledged <= set(stored) and set(stored.values()) == {1}
    # a client that heard nothing sends all of them again
    receipts = log.record_votes(vote_of(number) for number in range(VOTES))
    assert [receipt.record_id for receipt in receipts] == [f"vote-ann-{number}" for number in range(VOTES)]  # type: ignore[union-attr]
    assert log.counts().votes == VOTES and log.record_votes([vote_of(0)]) == receipts[:1]


def test_four_processes_write_at_once(log: PreferenceLog, log_url: str, tmp_path: Path) -> None:
    names = ("ann", "bob", "cat", "dan")
    fill(log, pairs=30, listeners=names)
    # two of them are one listener's, on two replicas: the same votes, each sent to both
    writers = [start_writer(log_url, tmp_path / "audio", name, 0, 30) for name in (*names[:3], "ann")]
    said = [set(writer.communicate(timeout=120)[0].split()) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert said[0] == said[3] == {"open"} | {f"vote-ann-{number}" for number in range(30)}
    assert Counter(vote.listener_id for vote in log.votes()) == {"ann": 30, "bob": 30, "cat": 30}


def test_a_vote_that_another_replica_writes_between_two_looks_is_a_repeat(
    log: PreferenceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log)
    receipt, look, looks = log.record_vote(vote_of(0)), Reader.row, iter((None,))
    monkeypatch.setattr(Reader, "row", lambda *about: next(looks, look(*about)))  # the first comes too early
    assert log.record_vote(vote_of(0)) == receipt
    assert list(log.votes()) == [vote_of(0)]


def test_a_locked_database_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with PreferenceLog.open(str(tmp_path / "log.sqlite"), deadline_s=0.6) as log:
        fill(log)
        other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            log.record_vote(vote_of(0))
        assert list(log.votes()) == []  # reading goes on
        other.execute("ROLLBACK")
        log.record_vote(vote_of(0))
        other.close()
        assert list(log.votes()) == [vote_of(0)]


def test_a_full_disk_is_named_and_stores_nothing(tmp_path: Path) -> None:
    with PreferenceLog.open(str(tmp_path / "log.sqlite")) as log:
        fill(log, pairs=120)

        def leave_no_room(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute("PRAGMA max_page_count=1")  # as large as it is, and no page more

        event.listen(log._database._engine, "checkout", leave_no_room)
        with pytest.raises(Unavailable, match="full"):
            for number in range(120):
                log.record_vote(vote_of(number))
        event.remove(log._database._engine, "checkout", leave_no_room)
        stored = {vote.vote_id for vote in log.votes()}
        assert stored == {f"vote-ann-{number}" for number in range(len(stored))} and len(stored) < 120


def test_a_disk_that_takes_no_sound_is_named(sqlite_log: PreferenceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        sqlite_log.audio.put(flac_of(0))
    assert list(sqlite_log.audio.names()) == []


def test_a_file_that_changed_on_disk_is_not_handed_out(sqlite_log: PreferenceLog) -> None:
    name = sqlite_log.audio.put(flac_of(0))
    sqlite_log.audio.path(name).write_bytes(flac_of(0)[:-1])
    assert sqlite_log.audio.read(name) is None
    assert sqlite_log.audio.put(flac_of(0)) == name and sqlite_log.audio.read(name) == flac_of(0)


@needs_postgres
def test_a_crash_of_postgres_loses_no_acknowledged_vote(tmp_path: Path) -> None:
    from tests.postgres.server import PostgresServer

    with PostgresServer() as server, PreferenceLog.open(server.url, tmp_path / "audio") as log:
        fill(log, pairs=VOTES)
        acknowledged = set()
        for first in (0, 50, 100):
            with start_writer(server.url, tmp_path / "audio", "ann", first, VOTES) as writer:
                assert writer.stdout is not None and writer.stdout.readline() == "open\n"
                for _ in range(30):
                    acknowledged.add(writer.stdout.readline().strip())
                server.kill()
                with pytest.raises(Unavailable):
                    log.ping()
                writer.kill()
                acknowledged |= {line.strip() for line in writer.stdout if line.endswith("\n")}
            server.start()
        stored = Counter(vote.vote_id for vote in log.votes())
        assert len(acknowledged) >= 90 and acknowledged <= set(stored) and set(stored.values()) == {1}
        log.record_votes(vote_of(number) for number in range(VOTES))
        assert log.counts().votes == VOTES
