from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.feedback_app.small_app import SmallApp, audible_world, small_app
from tests.system.tiny_world import TinyWorld

APART = {"web": "in a browser; `make test-web`", "api": "schemathesis over the API; `make test-api`"}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in APART.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests apart run only where their marker is asked for by name."""
    asked_for = str(config.getoption("markexpr"))
    left_out = [item for item in items if any(item.get_closest_marker(n) and n not in asked_for for n in APART)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return audible_world(tmp_path_factory.mktemp("tiny_world"))


@pytest.fixture(scope="module")
def shared(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallApp]:
    """One app for the tests of a module that leave nothing behind that another could trip over."""
    app = small_app(tmp_path_factory.mktemp("app"), world)
    yield app
    app.close()


@pytest.fixture
def make_app(world: TinyWorld, tmp_path: Path) -> Iterator[Callable[..., SmallApp]]:
    """Apps of the test's own, by their settings."""
    made: list[SmallApp] = []

    def make(**settings: Any) -> SmallApp:
        made.append(small_app(tmp_path / "log", world, **settings))
        return made[-1]

    yield make
    for app in made:
        app.close()
