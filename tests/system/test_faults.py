"""What goes wrong in the middle of a run: rewards that fail, a learner that dies, actors that hang.

tests/faults has the faults that are drawn from a seed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.tiny_world import TinyWorld, actor_pids, check_trained_once, metrics_of, open_main, wait_for_step

FAULTY = "tests.system.simple_rewards:Faulty"


def test_a_reward_that_fails_for_some_clips_is_counted_and_the_run_goes_on(world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    faults = {
        f"rewards__{how}__{name}": value
        for how in ("raise", "hang", "nan")
        for name, value in {
            "target": FAULTY,
            "weight": 0.1,
            "deadline_s": 1.0,
            "options": "{how: " + how + ", below: 8}",
        }.items()
    }
    world.run(run_dir, learner__steps=4, **faults)
    rows = metrics_of(run_dir)
    assert rows[-1]["learner_step"] == 4
    assert rows[-1]["scores_missing"] >= 3  # the same clips fail for all three
    assert rows[-1]["rows_dropped"] > 0
    assert rows[-1]["restarts_scorer"] == 0  # a scorer stops what is too slow by itself
    check_trained_once(run_dir)


def test_a_reward_that_fails_for_all_clips_ends_the_run_in_one_line(world: TinyWorld, tmp_path: Path) -> None:
    done = world.attempt(
        tmp_path / "run",
        rewards__broken__target=FAULTY,
        rewards__broken__options="{how: raise, below: 1000}",
    )
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert "reward broken failed for all" in last and "this clip is not to my taste" in last
    assert "run.resume=" in last


@pytest.mark.slow
def test_a_learner_that_dies_ends_the_run_with_the_way_back(world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = open_main(world.arguments(run_dir, learner__steps=40))
    wait_for_step(process, run_dir, 5)
    os.kill(actor_pids(process, "LearnerActor")[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("error: learner: lost 1 times") and f"run.resume={run_dir}" in last


@pytest.mark.slow
def test_a_stall_ends_the_run_and_names_the_stage(world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = open_main(world.arguments(run_dir, learner__steps=400, pipeline__stall_s=60, pipeline__stall_warn_s=20))
    wait_for_step(process, run_dir, 3)
    os.kill(actor_pids(process, "LearnerActor")[0], signal.SIGSTOP)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    last = err.rstrip().splitlines()[-1]
    assert "no progress for 60 s (pipeline.stall_s) in: learn (1); waits for learner 0 step, pid " in last
    assert "stopped (SIGSTOP" in last and f"run.resume={run_dir}" in last
    assert (run_dir / "stalls.log").read_text().count("waits for learner 0 step") == 2  # told before it ended


@pytest.mark.slow
def test_a_generator_that_hangs_is_replaced(world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = open_main(world.arguments(run_dir, learner__steps=12, actors__deadline_s=15))
    wait_for_step(process, run_dir, 3)
    os.kill(actor_pids(process, "GeneratorActor")[0], signal.SIGSTOP)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    assert "generator 0 missed its deadline" in out
    check_trained_once(run_dir)
