"""Synchronous mode on the tiny world: what a run leaves, and that it is a function of its seed, killed or not."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.system.tiny_world import (
    TinyWorld,
    assert_same_outcome,
    check_trained_once,
    metrics_of,
    open_main,
    run_main,
    wait_for_step,
)

STEPS = 8


@pytest.fixture(scope="module")
def whole(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end in one go."""
    run_dir = tmp_path_factory.mktemp("sync") / "whole"
    done = world.run(run_dir, learner__steps=STEPS, evaluation__every=4)
    assert done.stdout.rstrip().splitlines()[-1] == f"report: {run_dir / 'report.html'}"
    return run_dir


def test_a_run_leaves_every_file_of_its_folder(whole: Path) -> None:
    assert (whole / "config.yaml").is_file() and (whole / "report.html").is_file()
    assert [row["learner_step"] for row in metrics_of(whole)] == list(range(1, STEPS + 1))
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"step_0", "step_4", "step_6", "step_8"}
    assert {path.name for path in (whole / "samples").iterdir()} == {"step_0", "step_4", "step_8"}
    evaluated = pq.read_table(whole / "evaluation.parquet").column("learner_step").unique().to_pylist()
    assert sorted(evaluated) == [0, 4, 8]
    check_trained_once(whole)


def test_every_row_is_on_policy(whole: Path) -> None:
    for row in metrics_of(whole):
        assert row["staleness_max"] == 0
        assert row["importance_weight_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics_of(whole)[0]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_ledger_adds_up_to_an_independent_clock(whole: Path) -> None:
    rows = metrics_of(whole)
    stages = sum(value for row in rows[1:] for name, value in row.items() if _is_stage(name))
    assert stages == pytest.approx(rows[-1]["time_unix"] - rows[0]["time_unix"], rel=0.02)
    for row in rows:
        assert sum(value for name, value in row.items() if _is_stage(name)) == pytest.approx(row["seconds_step"])


def test_a_run_that_was_killed_and_resumed_equals_the_uninterrupted_one(world: TinyWorld, whole: Path) -> None:
    run_dir = whole.parent / "killed"
    step = random.Random(os.getpid()).randrange(1, STEPS - 1)
    world.kill_and_resume(run_dir, step, learner__steps=STEPS, evaluation__every=4)
    assert_same_outcome(whole, run_dir, STEPS)
    check_trained_once(run_dir)


@pytest.mark.slow
def test_the_same_seed_twice_is_equal_with_other_actors(world: TinyWorld, whole: Path) -> None:
    """Also with two generators, which answer in another order."""
    world.run(whole.parent / "again", learner__steps=STEPS, evaluation__every=4, actors__generators=2)
    assert_same_outcome(whole, whole.parent / "again", STEPS)


@pytest.mark.slow
def test_another_seed_differs(world: TinyWorld, whole: Path) -> None:
    world.run(whole.parent / "other", learner__steps=STEPS, evaluation__every=4, run__seed=4)
    with pytest.raises(AssertionError):
        assert_same_outcome(whole, whole.parent / "other", STEPS)


@pytest.mark.slow
def test_an_interrupted_run_saves_and_goes_on(world: TinyWorld, whole: Path) -> None:
    run_dir = whole.parent / "interrupted"
    process = open_main(world.arguments(run_dir, learner__steps=STEPS, evaluation__every=4, run__checkpoint_every=1000))
    wait_for_step(process, run_dir, 2)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to every process of the foreground
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"run.resume={run_dir}" in out
    assert len(list((run_dir / "checkpoints").glob("step_*"))) == 2  # step 0, and the one it stopped at
    assert run_main([f"run.resume={run_dir}"]).returncode == 0
    assert_same_outcome(whole, run_dir, STEPS)


def _is_stage(name: str) -> bool:
    return name.startswith("seconds_") and name != "seconds_step"
