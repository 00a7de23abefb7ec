"""The database of a preference log: SQLite (a path) or PostgreSQL (a URL), at the newest version of its tables.

SQLite runs in WAL mode and syncs every commit to disk, PostgreSQL with synchronous_commit: what is committed survives
kill -9 and a power cut.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cluster.errors import UserError
from feedback.errors import Unavailable
from feedback.schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_ID = 0x6D757372  # of PostgreSQL's advisory lock around migrations
_BUSY_S = 0.5  # one wait for SQLite's lock; who writes tries again until the deadline
_FORMS = "a path, sqlite:///PATH or postgresql://USER@HOST/NAME"


class Database:
    """Engines for reading (one snapshot per transaction) and for writing (SQLite: locked from the start)."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)
        self.writing = self._engine.execution_options(writes=True)
        level = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reading = self._engine.execution_options(stream_results=True, **level)

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot. Raises Unavailable."""
        try:
            with self._reading.begin() as connection:
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            raise Unavailable(f"preference log {self.shown_url}: {cause(error)}") from error

    def forget_deleted(self) -> None:
        """Lets deleted rows vanish also from SQLite's write-ahead file (PostgreSQL: its own vacuum does it)."""
        if self.is_sqlite:
            with self._engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]

    def close(self) -> None:
        self._engine.dispose()


def open_database(text_url: str) -> Database:
    """Connects, creates or migrates the tables. Raises UserError: no such database, or one of a newer program."""
    url = parse_url(text_url)
    if url.get_backend_name() == "sqlite":
        _make_folder(Path(str(url.database)))
    database = Database(url)
    try:
        _bring_up_to_date(database)
    except (SQLAlchemyError, OSError, Unavailable) as error:
        database.close()
        root = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ else error
        raise UserError(f"url: got {database.shown_url} ({cause(root)}), allowed {_FORMS}") from error
    except BaseException:
        database.close()
        raise
    return database


def parse_url(given: str) -> URL:
    """A path or URL -> the URL with its driver. Raises UserError."""
    if "://" not in given:
        if not given.strip():
            raise UserError(f"url: got {given!r}, allowed {_FORMS}")
        return URL.create("sqlite", database=str(Path(given).expanduser()))
    try:
        url = make_url(given)
        kind = url.drivername.partition("+")[0]
    except (ArgumentError, ValueError):
        raise UserError(f"url: got {given.partition('://')[0]}://…, which is no URL, allowed {_FORMS}") from None
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise UserError(f"url: got the kind {kind!r}, allowed {_FORMS}")
    if not url.database or url.database == ":memory:" or "mode=memory" in given:
        raise UserError(f"url: got {given}, a log that would vanish with its process, allowed {_FORMS}")
    return url.set(drivername="sqlite")


def cause(error: BaseException) -> str:
    """One line without SQL, values or passwords."""
    inner = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[0] if lines else type(inner).__name__


def is_busy(error: BaseException) -> bool:
    """Whether another writer was in the way, so that trying again helps."""
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01", "55P03")


def current_revision(connection: Connection) -> str:
    """The version of the tables; "" for a database without any."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables & {"votes", "pairs", "clips", "listeners"}:
            raise UserError("url: got a database with tables of another program, allowed an empty one or a log")
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def migrate(connection: Connection, revision: str = REVISION) -> None:
    """Brings the tables to `revision`, within the caller's transaction."""
    from alembic import command  # only where there is something to do: it takes a while to load
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _bring_up_to_date(database: Database) -> None:
    with database.reading() as connection:
        if current_revision(connection) == REVISION:
            return
    # one process migrates, the others wait and then find it done
    with _locked(database) as connection:
        found = current_revision(connection)
        if found == REVISION:
            return
        if found > REVISION:
            raise UserError(
                f"url: got {database.shown_url} with tables of version {found}, allowed up to {REVISION}: "
                "it was written by a newer version of this program"
            )
        migrate(connection)


@contextmanager
def _locked(database: Database, wait_s: float = 30.0) -> Iterator[Connection]:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with database.writing.begin() as connection:
                if not database.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
                yield connection
            return
        except OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, pool_size=16, max_overflow=16, pool_timeout=5.0)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says, not where the driver thinks
        connection.execute(f"PRAGMA busy_timeout={int(_BUSY_S * 1000)}")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # what a listener has deleted is overwritten

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, wait_s: float = 10.0) -> None:
    """The change to WAL fails at once where another process is just doing the same."""
    deadline = time.monotonic() + wait_s
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _postgres_engine(url: URL) -> Engine:
    # nothing waits for ever: not for a server, not for a lock, not for a peer that is gone
    settings = "-c lock_timeout=5000 -c statement_timeout=60000"
    arguments = {"connect_timeout": 5, "options": settings, "tcp_user_timeout": 10_000}
    pool = {"pool_size": 8, "max_overflow": 8, "pool_timeout": 5.0, "pool_pre_ping": True}
    try:
        engine = create_engine(url, connect_args=arguments, **pool)
    except ModuleNotFoundError as error:
        raise UserError(
            f"url: got a PostgreSQL URL without its driver ({error.name}): pip install 'musicrl-on-ray[postgres]'"
        ) from None

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit = on")
        connection.commit()

    return engine


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"url: got {path} ({error.strerror}), allowed {_FORMS}") from None
