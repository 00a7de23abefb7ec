from __future__ import annotations

import pytest

from tests.system.tiny_world import TinyWorld, build_tiny_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))
