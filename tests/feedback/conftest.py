"""Preference logs on both databases. PostgreSQL where MUSICRL_POSTGRES_URL names a server: `make test-postgres`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from feedback.preference_log import PreferenceLog

POSTGRES = os.environ.get("MUSICRL_POSTGRES_URL", "")
needs_postgres = pytest.mark.skipif(not POSTGRES, reason="MUSICRL_POSTGRES_URL names no PostgreSQL server")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of this test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/log.sqlite"
        return
    name = f"log_{secrets.token_hex(6)}"
    server = create_engine(make_url(POSTGRES).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def log(log_url: str, tmp_path: Path) -> Iterator[PreferenceLog]:
    with PreferenceLog.open(log_url, tmp_path / "audio") as opened:
        yield opened


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[PreferenceLog]:
    with PreferenceLog.open(str(tmp_path / "log.sqlite")) as opened:
        yield opened
