"""Preference logs on both databases. PostgreSQL where MUSICRL_POSTGRES_URL names a server: `make test-postgres`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.preference_log import PreferenceLog
from tests.postgres.database import own_database

POSTGRES = os.environ.get("MUSICRL_POSTGRES_URL", "")
needs_postgres = pytest.mark.skipif(not POSTGRES, reason="MUSICRL_POSTGRES_URL names no PostgreSQL server")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of this test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/log.sqlite"
        return
    with own_database(POSTGRES) as url:
        yield url


@pytest.fixture
def log(log_url: str, tmp_path: Path) -> Iterator[PreferenceLog]:
    with PreferenceLog.open(log_url, tmp_path / "audio") as opened:
        yield opened


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[PreferenceLog]:
    with PreferenceLog.open(str(tmp_path / "log.sqlite")) as opened:
        yield opened
