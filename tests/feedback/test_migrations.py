"""Old tables are brought up to date, newer and foreign ones refused."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text

from cluster.errors import UserError
from feedback import rows
from feedback.database import Database, current_revision, migrate, open_database, parse_url
from feedback.preference_log import PreferenceLog
from feedback.records import Consent
from feedback.schema import REVISION, metadata
from tests.feedback.log_parts import MOMENT, clip_of, flac_of, listener_of, pair_of, rating_of, vote_of

V2_COLUMNS = ("audio", "original", "origin")


def fill_version_1(url: str) -> None:
    """A log as the first version of the program left it."""
    database = Database(parse_url(url))
    at_us = rows.microseconds(MOMENT)
    listener = {"listener_id": "ann", "kind": "person", "listener_group": ""}
    found = [
        ("listeners", listener),
        ("consents", {"listener_id": "ann", "consent": "train", "given_us": at_us}),
        *(("clips", rows.clip_row(clip_of(number))) for number in (0, 1)),
        ("pairs", rows.pair_row(pair_of(0))),
        ("votes", rows.vote_row(vote_of(0)) | {"recorded_us": at_us}),
        ("ratings", rows.rating_row(rating_of(0)) | {"recorded_us": at_us}),
    ]
    with database.writing.begin() as connection:
        migrate(connection, "0001")
        for table, row in found:
            old = {name: value for name, value in row.items() if name not in V2_COLUMNS}
            connection.execute(insert(metadata.tables[table]).inline(), old)
    database.close()


def test_a_log_of_version_1_is_brought_up_to_date(log_url: str, tmp_path: Path) -> None:
    fill_version_1(log_url)
    with PreferenceLog.open(log_url, tmp_path / "audio") as log:
        assert list(log.listeners()) == [listener_of("ann", Consent.TRAIN)]
        assert list(log.clips()) == [clip_of(0), clip_of(1)] and list(log.pairs()) == [pair_of(0)]
        assert list(log.votes()) == [vote_of(0)] and list(log.ratings()) == [rating_of(0)]
        assert log.record_vote(vote_of(0)).recorded_at == MOMENT
        log.add_clip(clip_of(0), flac_of(0))
        log.add_pair(pair_of(1, asked_by="ann", origin="{}"))
        assert log.pair("pair-1").asked_by == "ann"


def test_migrations_make_the_tables_of_the_schema(log_url: str) -> None:
    database = open_database(log_url)
    with database.reading() as connection:
        assert current_revision(connection) == REVISION
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_tables_of_a_newer_program_are_refused(log_url: str) -> None:
    database = open_database(log_url)
    with database.writing.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(UserError, match=r"version 9999, allowed up to \d{4}: it was written by a newer version"):
        open_database(log_url)


def test_many_who_open_at_once_migrate_once(log_url: str, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_and_close() -> None:
        try:
            PreferenceLog.open(log_url, tmp_path / "audio").close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_foreign_databases_are_refused(tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE votes (candidate TEXT)")
    foreign.close()
    with pytest.raises(UserError, match="tables of another program"):
        open_database(str(tmp_path / "foreign.sqlite"))
    (tmp_path / "text.sqlite").write_text("no database at all " * 100)
    with pytest.raises(UserError, match="not a database"):
        open_database(str(tmp_path / "text.sqlite"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "://",
        "mysql://host/name",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://host:port/name",
        "postgresql://nobody:secret@127.0.0.1:1/name",
        "/proc/none/log.sqlite",
    ],
)
def test_impossible_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(UserError, match=r"^url: got") as caught:
        open_database(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_sound_beside_postgres_needs_a_place(log_url: str) -> None:
    if log_url.startswith("sqlite"):
        with PreferenceLog.open(log_url) as log:
            assert log.audio.directory == Path(log_url.removeprefix("sqlite:///")).parent / "audio"
        return
    with pytest.raises(UserError, match="audio_dir"):
        PreferenceLog.open(log_url)


def test_sqlite_syncs_every_commit(sqlite_log: PreferenceLog) -> None:
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    with sqlite_log._database.reading() as connection:
        assert {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas} == pragmas
