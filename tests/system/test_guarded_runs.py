"""A run that exploits its reward, on the tiny world: what rings, what stays, how it ends, and that a resume agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.system.tiny_world import (
    TinyWorld,
    assert_same_outcome,
    metrics_of,
    run_main,
)

STEPS = 8
EXPLOITED: dict[str, Any] = {  # what is trained on the one hand is lost on the other, which is recorded only
    "learner__steps": STEPS,
    "learner__learning_rate": 5e-3,
    "learner__alpha": 0,
    "rewards__brightness__weight": 0,
    "rewards__high_tokens__target": "tests.system.simple_rewards:HighTokens",
    "rewards__high_tokens__weight": 0,
    "evaluation__every": 1,
    "evaluation__prompts": 12,
    "run__checkpoint_every": 2,
    "run__keep_checkpoints": 1,
    "guard__falls_se": 1,
    "guard__judges_sd": 0.01,
    "guard__at_once_se": 1e9,
}


@pytest.fixture(scope="module")
def whole(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end in one go, in which alarms ring and nothing stops."""
    run_dir = tmp_path_factory.mktemp("guard") / "whole"
    done = world.run(run_dir, **EXPLOITED)
    assert "ALARM step" in done.stdout and "held-out judges" in done.stdout
    return run_dir


def alarms_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "alarms.json").read_text())


def test_alarms_are_in_file_metrics_and_report(whole: Path) -> None:
    found, rows = alarms_of(whole), metrics_of(whole)
    first = found["alarms"][0]["learner_step"]
    rung = {alarm["learner_step"] for alarm in found["alarms"]}
    assert 2 <= first < STEPS
    assert {row["learner_step"]: row["alarm"] for row in rows} == {s: int(s in rung) for s in range(1, STEPS + 1)}
    assert rows[-1]["alarms"] == len(found["alarms"]) > 1
    page = (whole / "report.html").read_text()
    assert f"Alarm at step {first}:" in page and "Checkpoint to go on with:" in page
    assert "The alarm ended the run" not in page


def test_evaluations_between_checkpoints_and_the_proposal_stays(whole: Path) -> None:
    evaluated = pq.read_table(whole / "evaluation.parquet")["learner_step"].unique().to_pylist()
    assert sorted(evaluated) == list(range(STEPS + 1))
    there = {path.name for path in (whole / "checkpoints").iterdir()}
    proposed = alarms_of(whole)["proposal"]
    assert (whole / proposed["policy"]).is_dir()
    assert there >= {"step_0", f"step_{STEPS}", f"step_{proposed['learner_step']}"}
    assert len(there) <= 5


def test_stopped_on_the_first_alarm_in_good_order_also_after_a_resume(world: TinyWorld, whole: Path) -> None:
    run_dir = whole.parent / "stopped"
    done = world.run(run_dir, **EXPLOITED, guard__stop_on_alarm="true")
    first = alarms_of(whole)["alarms"][0]
    assert len(metrics_of(run_dir)) == first["learner_step"]
    assert (run_dir / "checkpoints" / f"step_{first['learner_step']}" / "manifest.json").is_file()
    assert "The alarm ended the run" in (run_dir / "report.html").read_text()
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith(
        f"stopped on alarm, step {first['learner_step']}: {first['rule']}, {first['text']}; proposed"
    )
    assert last.endswith(f"report: {run_dir / 'report.html'}")

    again = run_main([f"run.resume={run_dir}"])
    assert again.returncode == 0 and again.stdout.rstrip().splitlines()[-1] == last
    assert len(metrics_of(run_dir)) == first["learner_step"]

    on = run_main([f"run.resume={run_dir}", "guard.stop_on_alarm=false"])
    assert on.returncode == 0, on.stderr[-3000:]
    assert_same_outcome(whole, run_dir, STEPS)
    assert alarms_of(run_dir)["alarms"] == alarms_of(whole)["alarms"]


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_same_alarms(world: TinyWorld, whole: Path) -> None:
    run_dir = whole.parent / "killed"
    world.kill_and_resume(run_dir, 5, **EXPLOITED)
    assert_same_outcome(whole, run_dir, STEPS)
    assert alarms_of(run_dir) == alarms_of(whole)
