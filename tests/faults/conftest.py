from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.table import Table
from tests.system.tiny_world import TinyWorld, build_tiny_world

SYNC = {
    "learner__steps": 72,  # five for each of fourteen faults
    "evaluation__every": 8,
    "run__checkpoint_every": 8,
    "actors__max_restarts": 100,
    "pipeline__stall_s": 150,
    "pipeline__stall_warn_s": 15,
}
TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))


@pytest.fixture(scope="session")
def undisturbed(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the settings SYNC that nothing happens to."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    world.run(run_dir, **SYNC)
    return run_dir


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash.setdefault(TABLE, Table())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is not None and table.faults:
        terminalreporter.write_line(f"{table.faults} faults, one line each in {table.path}")
