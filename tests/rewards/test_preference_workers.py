"""The training on Ray Train workers, and a reinforcement run on what came out of it: slow, whole processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewards.preference_registry import Registry
from rewards.preference_settings import PreferenceSettings
from rewards.preference_train import read_training, train_preference
from tests.rewards.preference_parts import settings_of, votes
from tests.system.tiny_world import ROOT, TinyWorld, build_tiny_world, metrics_of

LIMIT_S = 400
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]


def words_of(settings: PreferenceSettings) -> list[str]:
    return [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in vars(settings).items()
    ]


def command(settings: PreferenceSettings) -> subprocess.Popen[str]:
    """`python -m rewards.train preference` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "rewards.train", "preference", *words_of(settings)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(settings: PreferenceSettings) -> str:
    """The output of a whole command; fails the test unless it ends with exit status 0."""
    process = command(settings)
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            kill(process)
    assert process.returncode == 0, output[-4000:]
    return output


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_two_workers_learn_what_this_process_learns(tmp_path: Path):
    table = votes(400, tie_below=0.5)
    alone = settings_of(tmp_path, table, dropout=0.0, steps=40)
    one = read_training(train_preference(alone, lambda text: None))
    two = dataclasses.replace(alone, workers=2, out=str(tmp_path / "two"))
    finished(two)
    other = read_training(two.out)
    for mine, theirs in zip(one["training"]["history"], other["training"]["history"], strict=True):
        assert mine["valid_loss"] == pytest.approx(theirs["valid_loss"], abs=2e-3)
    assert other["figures"]["accuracy"]["value"] == pytest.approx(one["figures"]["accuracy"]["value"], abs=0.02)


def test_a_killed_training_goes_on_and_ends_where_the_uninterrupted_one_does(tmp_path: Path):
    settings = settings_of(tmp_path, votes(400), workers=1, steps=60, checkpoint_every=10, patience=0)
    here = dataclasses.replace(settings, workers=0, out=str(tmp_path / "whole"))
    whole = read_training(train_preference(here, lambda text: None))
    process = command(settings)
    deadline = time.monotonic() + LIMIT_S
    while not list((Path(settings.out) / "training").glob("*/workers/checkpoint*/state.pt")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.2)
    kill(process)
    assert not (Path(settings.out) / "training.json").exists()
    output = finished(settings)
    assert "going on from step" in output
    assert read_training(settings.out)["training"]["history"] == whole["training"]["history"]
    assert read_training(settings.out)["version"] == whole["version"]


def test_a_run_is_rewarded_by_the_served_version(tmp_path: Path):
    world: TinyWorld = build_tiny_world(tmp_path / "world")
    table = votes(300)
    settings = settings_of(tmp_path, table, policy=str(world.folder / "policy"), registry=str(tmp_path / "registry"))
    finished(dataclasses.replace(settings, workers=0, steps=40))
    version = Registry(settings.registry).current_version
    assert version
    run_dir = tmp_path / "run"
    reward = {"rewards__preference__checkpoint": f"registry:{settings.registry}@current"}
    world.run(run_dir, learner__steps=2, rewards__brightness__weight=0.0, **reward)
    rows = metrics_of(run_dir)
    assert len(rows) == 2 and all(abs(row["reward_preference"]) < 100 for row in rows)
    assert f"versions/{version}/model" in (run_dir / "config.yaml").read_text()
