"""Whole runs with two learner workers on Ray: the result of one, in either mode, killed or not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from policy.checkpoint import load_policy
from tests.cluster.ray_cluster import ray_cluster
from tests.system.tiny_world import (
    ROOT,
    TinyWorld,
    actor_pids,
    check_trained_once,
    metrics_of,
    open_main,
    run_main,
    tensors_of,
    wait_for_step,
)

pytestmark = pytest.mark.slow
STEPS = 6
TWO = {"learner__steps": STEPS, "learner__workers": 2}


@pytest.fixture(scope="module")
def alone(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("workers") / "alone"
    world.run(run_dir, learner__steps=STEPS)
    return run_dir


def assert_same_policy(run_dir: Path, expected: Path) -> None:
    found, wanted, start = (
        load_policy(run / "checkpoints" / step / "policy").state_dict()
        for run, step in ((run_dir, f"step_{STEPS}"), (expected, f"step_{STEPS}"), (expected, "step_0"))
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert max((wanted[name] - start[name]).abs().max() for name in wanted) > 1e-3


def test_two_sharded_workers_end_like_one(world: TinyWorld, alone: Path) -> None:
    run_dir = alone.parent / "sharded"
    world.run(run_dir, learner__parallel="sharded", **TWO)
    assert_same_policy(run_dir, alone)
    assert (run_dir / "report.html").is_file()
    check_trained_once(run_dir)
    for found, wanted in zip(metrics_of(run_dir), metrics_of(alone), strict=True):
        for name in ("reward", "kl", "entropy", "policy_loss", "value_loss", "grad_norm", "advantage_std"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name
    cut = [name for name in tensors_of(run_dir / "checkpoints" / f"step_{STEPS}") if "-of-00002" in name]
    assert len(cut) > 10


def test_a_dead_worker_ends_the_run_in_one_line_and_one_worker_goes_on(world: TinyWorld, alone: Path) -> None:
    run_dir = alone.parent / "killed"
    process = open_main(world.arguments(run_dir, learner__parallel="sharded", **TWO))
    wait_for_step(process, run_dir, 3)
    os.kill(actor_pids(process, "LearnerActor")[1], signal.SIGKILL)
    line = _last_line(process, within_s=60.0)
    assert re.search(rf"learner: worker [01] of 2 died during \w+: .*run\.resume={run_dir}$", line), line
    done = run_main([f"run.resume={run_dir}", "learner.workers=1"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_policy(run_dir, alone)
    check_trained_once(run_dir)


def test_a_worker_that_stands_still_is_found_out(world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = open_main(world.arguments(run_dir, learner__collective_timeout_s=5, **{**TWO, "learner__steps": 1000}))
    wait_for_step(process, run_dir, 2)
    os.kill(actor_pids(process, "LearnerActor")[1], signal.SIGSTOP)
    line = _last_line(process, within_s=90.0)
    assert re.search(
        r"learner: worker [01] of 2 gave no answer during \w+ \(learner: worker [01] of 2 waited 5 s", line
    )


def test_asynchronous_in_16_bits_with_less_memory(world: TinyWorld, tmp_path: Path) -> None:
    """On a cluster of its own, whose three CPUs let two workers learn beside a generator."""
    run_dir = tmp_path / "run"
    settings = {
        "learner__precision": "bfloat16",
        "learner__activation_checkpointing": "true",
        "pipeline__mode": "async",
    }
    words = world.arguments(run_dir, **TWO, **settings, evaluation__every=3)
    with ray_cluster(cpus=3) as cluster:
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "learner.main", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    rows = metrics_of(run_dir)
    assert [row["learner_step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["importance_weight_mean"] == pytest.approx(1.0, abs=0.05) and rows[0]["kl"] < 1e-3
    check_trained_once(run_dir)
    written = tensors_of(run_dir / "checkpoints" / f"step_{STEPS}")
    assert all(tensor.dtype != torch.bfloat16 for tensor in written.values())


def test_more_learners_than_gpus_are_refused(world: TinyWorld, tmp_path: Path) -> None:
    if torch.cuda.device_count() >= 64:
        pytest.skip("a machine that has them")
    done = world.attempt(tmp_path / "run", learner__workers=64, learner__batch_size=64, learner__gpus=1)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "learner.workers: got 64 with learner.gpus=1" in done.stderr


def _last_line(process: subprocess.Popen[str], within_s: float) -> str:
    """What the run says last, once it has ended badly."""
    since = time.monotonic()
    out, err = process.communicate(timeout=within_s + 30)
    assert process.returncode == 1, f"{process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    assert time.monotonic() - since < within_s
    return err.strip().splitlines()[-1]
