"""Whole runs whose weights travel by broadcast: the same outcome, and a generator that dies in mid-run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.tiny_world import (
    TinyWorld,
    actor_pids,
    assert_same_outcome,
    check_trained_once,
    metrics_of,
    open_main,
    wait_for_step,
)

STEPS = 6


@pytest.mark.slow
def test_every_backend_gives_the_same_run(world: TinyWorld, tmp_path: Path) -> None:
    stored, broadcast = tmp_path / "object_store", tmp_path / "collective"
    world.run(stored, learner__steps=STEPS, actors__generators=2)
    settings = {"weights__backend": "collective", "weights__changed_only": "true"}
    world.run(broadcast, learner__steps=STEPS, actors__generators=2, **settings)
    assert_same_outcome(stored, broadcast, STEPS)


@pytest.mark.slow
def test_a_generator_that_dies_is_replaced_and_joins_the_broadcasts(world: TinyWorld, tmp_path: Path) -> None:
    run_dir, steps = tmp_path / "run", 30
    settings = {"weights__backend": "collective", "actors__generators": 2}
    process = open_main(world.arguments(run_dir, learner__steps=steps, **settings))
    wait_for_step(process, run_dir, 4)
    os.kill(actor_pids(process, "GeneratorActor")[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, f"{out[-3000:]}\n{err[-3000:]}"
    last = metrics_of(run_dir)[-1]
    assert last["learner_step"] == steps and last["restarts_generator"] == 1
    check_trained_once(run_dir)
