"""Asynchronous mode on the tiny world: generators run on while the learner steps, and a simple reward really rises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.system.tiny_world import TinyWorld, check_trained_once, metrics_of

STEPS = 60
BOUND = 2


@pytest.fixture(scope="module")
def finished(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("async") / "run"
    world.run(
        run_dir,
        pipeline__mode="async",
        pipeline__max_staleness=BOUND,
        learner__steps=STEPS,
        learner__learning_rate=5e-3,
        learner__alpha=0.01,
        run__checkpoint_every=30,
        sampling__guidance_scale=1.5,
    )
    return run_dir


def test_staleness_is_never_above_its_bound_and_not_always_zero(finished: Path) -> None:
    stalest = [row["staleness_max"] for row in metrics_of(finished)]
    assert len(stalest) == STEPS
    assert 1 <= max(stalest) <= BOUND
    check_trained_once(finished)


def test_the_ledger_adds_up_to_an_independent_clock(finished: Path) -> None:
    rows = metrics_of(finished)
    stages = sum(value for row in rows[1:] for name, value in row.items() if _is_stage(name))
    assert stages == pytest.approx(rows[-1]["time_unix"] - rows[0]["time_unix"], rel=0.02)
    assert all(row["seconds_sample"] == 0 for row in rows)  # sampling costs the learner's clock nothing but its wait
    assert sum(row["busy_sample"] for row in rows) > 0


def test_the_reward_rises(finished: Path) -> None:
    share = [row["reward_low_tokens"] for row in metrics_of(finished)]
    assert np.mean(share[-10:]) > np.mean(share[:10]) + 0.1


def _is_stage(name: str) -> bool:
    return name.startswith("seconds_") and name != "seconds_step"
