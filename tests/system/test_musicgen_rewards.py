"""Whole runs of a MusicGen rewarded by models of the field, CLAP and Audiobox, with random weights and their own code.

Audiobox runs where its environment is: MUSICRL_ENVIRONMENTS, see tests/rewards/test_extra_isolation.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.replay_table import read_rows
from tests.rewards.extra_parts import environment_of, run_original, write_clap
from tests.system.musicgen_world import MusicGenWorld, build_musicgen_world
from tests.system.tiny_world import (
    assert_same_outcome,
    check_trained_once,
    metrics_of,
)

STEPS, ROWS, LIMIT_S = 2, 2, 580.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


class RewardedWorld(MusicGenWorld):
    """Its runs have no rewards but these two; Audiobox takes seconds for a clip."""

    def arguments(self, run_dir: Path | str, **settings: Any) -> list[str]:
        chosen = {
            "learner__steps": STEPS,
            "learner__batch_size": ROWS,
            "learner__micro_batch_size": 1,
            "actors__rollout_size": ROWS,
            "evaluation__prompts": 1,
            "run__checkpoint_every": 1,
            "rewards__clap__checkpoint": self.folder / "clap",
            "rewards__clap__scale": 0.01,
            "rewards__clap__deadline_s": 200,
            "rewards__taste__model": "audiobox",
            "rewards__taste__checkpoint": self.folder / "audiobox",
            "rewards__taste__environment": environment_of("audiobox"),
            "rewards__taste__options": "{axis: CE+PQ}",
            "rewards__taste__shift": 6,
            "rewards__taste__deadline_s": 200,
            "actors__deadline_s": 400,
        }
        words = super().arguments(run_dir, **chosen | settings)
        return [word for word in words if not word.startswith(("rewards.low_tokens.", "rewards.brightness."))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RewardedWorld:
    environment_of("audiobox")
    folder = tmp_path_factory.mktemp("rewarded")
    write_clap(folder / "clap")
    (folder / "audiobox").mkdir()
    run_original("audiobox", environment_of("audiobox"), folder / "audiobox", "weights")
    return RewardedWorld(build_musicgen_world(folder).folder, LIMIT_S)


def check_scored(run: Path) -> None:
    """Both models scored every clip that was trained or heard, differently from clip to clip."""
    rows = [row for row in read_rows(run / "replay").to_pylist() if not row["dropped"]]
    metrics = metrics_of(run)
    assert len(metrics) == STEPS and len(rows) >= ROWS * STEPS
    for name in ("clap", "taste"):
        assert all(math.isfinite(row[f"reward_{name}"]) for row in metrics)
    for row in metrics:
        assert row["reward_std"] > 0 and row["grad_norm"] > 0  # the clips of a step were not scored alike
    evaluations = pq.read_table(run / "evaluation.parquet").to_pylist()
    for name in ("clap", "taste"):
        scores = [row["score"] for row in evaluations if row["judge"] == name]
        assert len(scores) == 2 and all(math.isfinite(score) for score in scores)  # before and after
    tastes = [row["score"] for row in evaluations if row["judge"] == "taste"]
    assert all(0 < score < 15 for score in tastes)  # in the units of its targets


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["all_weights", "adapters"])
def test_a_synchronous_run_is_equal_when_killed_and_resumed(
    world: RewardedWorld, tmp_path: Path, lora_rank: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    world.run(whole, learner__lora_rank=lora_rank)
    check_scored(whole)
    world.kill_and_resume(killed, 1, learner__lora_rank=lora_rank)
    assert_same_outcome(whole, killed, STEPS)
    check_trained_once(killed)


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["all_weights", "adapters"])
def test_an_asynchronous_run_keeps_its_bound(world: RewardedWorld, tmp_path: Path, lora_rank: int) -> None:
    run = tmp_path / "run"
    world.run(run, learner__lora_rank=lora_rank, pipeline__mode="async")
    check_scored(run)
    assert max(row["staleness_max"] for row in metrics_of(run)) <= 2
    check_trained_once(run)
    assert json.loads((run / f"checkpoints/step_{STEPS}/learner.json").read_text())["version"] == STEPS
