"""Whole runs under a seed's faults: they end, nothing acknowledged is lost or trained twice, and synchronous runs end
with the weights of a run that nothing happened to.

A schedule is drawn from its seed and printed. What was met goes to build/faults.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.bucket import bucket
from tests.faults.conftest import SYNC
from tests.faults.disk import small_disk, unavailable
from tests.faults.nodes import nodes
from tests.faults.scenario import Scenario
from tests.faults.schedule import Kind
from tests.faults.table import Table
from tests.system.tiny_world import TinyWorld, assert_same_outcome, metrics_of

Pairs = list[tuple[Kind, str]]
WORKERS = ("generator", "scorer", "replay", "evaluator")
SMALL: Pairs = [*(("kill", role) for role in WORKERS), ("pause", "learner")]
IN_RUN: Pairs = [
    *(("kill", role) for role in WORKERS),
    *(("pause", role) for role in (*WORKERS, "learner", "driver")),
    ("slow", "generator"),
    ("slow", "learner"),
    ("kill", "generator+replay"),
    ("kill", "scorer+generator"),
]
ENDING: Pairs = [("kill", "learner"), ("kill", "driver"), ("kill", "node"), ("kill", "gcs"), ("hang", "learner")]
HANGING: Pairs = [("hang", role) for role in WORKERS]
BESIDE: Pairs = [
    *(("kill", role) for role in (*WORKERS, "learner", "driver", "generator+scorer")),
    ("pause", "generator"),
    ("pause", "replay"),
    ("slow", "learner"),
]
STORAGE: Pairs = [
    ("cut", "storage"),
    ("cut", "storage"),
    ("flaky", "storage"),
    ("kill", "machine"),
    ("kill", "replay"),
    ("kill", "learner"),
]
NODES: Pairs = [
    ("kill", "workers"),
    ("kill", "workers"),
    ("cut", "workers"),
    ("kill", "generator"),
    ("hang", "generator"),
    ("kill", "replay"),
    ("kill", "driver"),
]
DISK: Pairs = [("fill", "disk"), ("fill", "disk"), ("lock", "disk")]
ASYNC = SYNC | {"pipeline__mode": "async", "pipeline__max_staleness": 2}


def meet(scenario: Scenario, world: TinyWorld, folder: Path, table: Table, whole: Path | None) -> Path:
    """The scenario, its checks and its lines in the table. whole: the run to compare the weights with."""
    try:
        run_dir = scenario.run(world, folder)
        scenario.equal = _same(whole, run_dir) if whole else None
    finally:
        table.add(scenario)
    scenario.check(run_dir)
    if whole:
        assert_same_outcome(whole, run_dir, SYNC["learner__steps"])
    return run_dir


def _same(whole: Path, run_dir: Path) -> bool:
    try:
        assert_same_outcome(whole, run_dir, SYNC["learner__steps"])
    except AssertionError:
        return False
    return True


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0], ids=lambda seed: f"few-{seed}")
def test_a_few_faults(seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table) -> None:
    """The part of this that belongs to every test run."""
    run_dir = meet(Scenario("few", seed, SMALL, SYNC), world, tmp_path, table, undisturbed)
    assert {role: metrics_of(run_dir)[-1][f"restarts_{role}"] for role in WORKERS} == dict.fromkeys(WORKERS, 1)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2, 3], ids=lambda seed: f"in_run-{seed}")
def test_what_a_run_survives(seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table) -> None:
    meet(Scenario("in_run", seed, IN_RUN, SYNC), world, tmp_path, table, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [4, 5], ids=lambda seed: f"ending-{seed}")
def test_what_ends_a_run_and_is_gone_on_with(
    seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table
) -> None:
    meet(Scenario("ending", seed, ENDING, SYNC), world, tmp_path, table, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_actors_that_never_answer_again(world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table) -> None:
    settings: dict[str, Any] = SYNC | {"actors__deadline_s": 30}
    run_dir = meet(Scenario("hanging", 6, HANGING, settings), world, tmp_path, table, undisturbed)
    assert "stopped" in (run_dir / "stalls.log").read_text()


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [7, 8], ids=lambda seed: f"async-{seed}")
def test_generators_that_run_on(seed: int, world: TinyWorld, tmp_path: Path, table: Table) -> None:
    run_dir = meet(Scenario("async", seed, BESIDE, ASYNC), world, tmp_path, table, None)
    assert max(row["staleness_max"] for row in metrics_of(run_dir)) <= ASYNC["pipeline__max_staleness"]


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [9], ids=lambda seed: f"disk-{seed}")
def test_a_disk_that_is_full_or_cannot_be_written_to(
    seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table
) -> None:
    if reason := unavailable(tmp_path):
        pytest.skip(reason)
    with small_disk(tmp_path) as disk:
        meet(Scenario("disk", seed, DISK, SYNC, place=disk), world, tmp_path, table, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [10], ids=lambda seed: f"storage-{seed}")
def test_object_storage_that_is_away_or_fails_and_a_machine_that_is_lost(
    seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table
) -> None:
    with bucket(tmp_path) as place:
        settings = SYNC | {"storage__lease_s": 4, "storage__upload_s": 2, "storage__deadline_s": 120}
        meet(Scenario("storage", seed, STORAGE, settings, place=place), world, tmp_path, table, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [11], ids=lambda seed: f"nodes-{seed}")
def test_nodes_that_die_or_are_cut_off(
    seed: int, world: TinyWorld, undisturbed: Path, tmp_path: Path, table: Table
) -> None:
    with nodes(tmp_path) as place:
        settings = SYNC | {"actors__generators": 2, "actors__deadline_s": 40}
        run_dir = meet(Scenario("nodes", seed, NODES, settings, place=place), world, tmp_path, table, undisturbed)
    stacks = (run_dir / "stalls.log").read_text()  # asked for on the other node
    assert "missed its deadline" in stacks and "stopped" in stacks
