from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.s3_server import S3Server
from tests.system.tiny_world import TinyWorld, build_tiny_world


@pytest.fixture(scope="session")
def one_server() -> Iterator[S3Server]:
    """Slow to make, so there is one for all tests."""
    with S3Server() as server:
        yield server


@pytest.fixture
def server(one_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An S3 server with an empty bucket `bucket`, to which this process's environment leads."""
    one_server.reset()
    one_server.make_bucket("bucket")
    for name, value in one_server.environment.items():
        monkeypatch.setenv(name, value)
    return one_server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))
