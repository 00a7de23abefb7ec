from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.s3_server import S3Server
from tests.system.tiny_world import TinyWorld, build_tiny_world


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server with an empty bucket `bucket`, to which this process's environment leads."""
    with S3Server() as server:
        server.make_bucket("bucket")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))
