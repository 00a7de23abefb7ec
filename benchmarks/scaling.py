"""The simulated pipeline against real runs, and what it says of larger fleets: the tables of docs/scaling.md.

    python -m benchmarks.scaling [what=check,fleets] [steps=14]

check: one real run on simulated actors of known speed (benchmarks.simulated_run) sets the constants, which are what the
calls of Ray, the replay store and the weight bus cost on this machine; then other shapes, real and simulated, side by
side. fleets: from 1 to 512 generators and 0.3 to 3.3 billion parameters, by arithmetic and simulation
(learner.simulated_fleet).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cluster.errors import RunFailed
from configs.command_line import exit_status_of, parse_settings
from learner.simulated_pipeline import SETTLED, ServiceTimes, Shape, simulate

TASK_ROWS = 8
REPLAY_CALLS = 4  # of a step with one task: insert, take, commit, stats
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    what: str = "check,fleets"
    steps: int = 14


@dataclass(frozen=True)
class Stated:
    """What the simulated actors of a real run take, in seconds."""

    sample_s: float = 1.0
    score_s: float = 0.1
    learn_s: float = 0.6


# One task a batch, one generator, synchronous: one thing after the other, so that each cost can be read off the ledger.
CALIBRATION = (Shape(1, 1, TASK_ROWS, TASK_ROWS, 0), Stated())
CHECKS = (
    (Shape(1, 1, 2 * TASK_ROWS, TASK_ROWS, 0), Stated()),
    (Shape(2, 1, 2 * TASK_ROWS, TASK_ROWS, 0), Stated()),
    (Shape(4, 1, 8 * TASK_ROWS, TASK_ROWS, 0), Stated()),
    (Shape(1, 1, 2 * TASK_ROWS, TASK_ROWS, 1), Stated()),
    (Shape(2, 1, 2 * TASK_ROWS, TASK_ROWS, 2), Stated()),
    (Shape(4, 1, 4 * TASK_ROWS, TASK_ROWS, 2), Stated(learn_s=1.2)),
    (Shape(4, 1, 2 * TASK_ROWS, TASK_ROWS, 1), Stated()),
    (Shape(3, 1, 2 * TASK_ROWS, TASK_ROWS, 4), Stated(learn_s=0.5)),
)


def main(arguments: list[str]) -> None:
    settings = parse_settings(arguments, Settings())
    wanted = settings.what.split(",")
    if "check" in wanted:
        check(settings.steps)
    if "fleets" in wanted:
        from learner.simulated_fleet import print_tables

        print_tables()


def check(steps: int) -> None:
    """Prints the constants and the table of comparisons."""
    load = os.getloadavg()[0]
    costs = _costs(_measure(*CALIBRATION, steps))
    print(
        f"Load {load:.1f} before the first run, {os.cpu_count()} CPUs. Seconds that one call costs beyond its work:\n"
    )
    print("| " + " | ".join(costs) + " |\n" + "|---" * len(costs) + "|")
    print("| " + " | ".join(f"{value:.3f}" for value in costs.values()) + " |\n")
    columns = ("mode", "generators", "tasks a batch", "sample s", "learn s", "rows/s, real", "simulated", "off")
    columns += ("staleness, real", "simulated", "off", "load")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for shape, stated in CHECKS:
        load = os.getloadavg()[0]
        real = _measure(shape, stated, steps)
        said = simulate(replace(shape, steps=steps), _times(costs, stated))
        rows_per_s, staleness = _throughput(real), statistics.fmean(row["staleness"] for row in real)
        mode = f"async, at most {shape.max_staleness}" if shape.max_staleness else "sync"
        print(
            f"| {mode} | {shape.generators} | {shape.batch_rows // TASK_ROWS} | {stated.sample_s} | {stated.learn_s} "
            f"| {rows_per_s:.2f} | {said.rows_per_s:.2f} | {_off(said.rows_per_s, rows_per_s)} "
            f"| {staleness:.2f} | {said.staleness:.2f} | {_off(said.staleness, staleness)} | {load:.1f} |",
            flush=True,
        )


def _measure(shape: Shape, stated: Stated, steps: int) -> list[dict[str, Any]]:
    """Rows of the settled steps of one real run."""
    with tempfile.TemporaryDirectory() as folder:
        preset, run_dir = Path(folder) / "simulated.yaml", Path(folder) / "run"
        preset.write_text(json.dumps({"run": {"seed": 0}}))
        settings = {
            "preset": preset,
            "run.dir": run_dir,
            "run.checkpoint_every": steps,
            "learner.steps": steps,
            "learner.batch_size": shape.batch_rows,
            "actors.rollout_size": shape.task_rows,
            "actors.generators": shape.generators,
            "actors.scorers": shape.scorers,
            "pipeline.mode": "async" if shape.max_staleness else "sync",
            "pipeline.max_staleness": max(1, shape.max_staleness),
            "rewards.simulated.target": "benchmarks.simulated_actors:SimulatedReward",
            "rewards.simulated.shift": 0,
            "rewards.simulated.scale": 1,
            "evaluation.judges": "",
            "evaluation.prompts": 1,
            "evaluation.samples": 0,
            "evaluation.seconds": 0.4,
            "sampling.seconds": 0.4,
            "guard.diversity_prompts": 0,
            "metrics.progress": "off",
        }
        words = [f"{key}={value}" for key, value in {**vars(stated), **settings}.items()]
        command = [sys.executable, "-m", "benchmarks.simulated_run", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RunFailed(f"a real run ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
        rows: list[dict[str, Any]] = pq.read_table(run_dir / "metrics.parquet").to_pylist()
    return rows[SETTLED + shape.max_staleness : -1]


def _costs(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the calibration run's stages took beyond the stated work; one step of it is one task of each kind."""
    stated = CALIBRATION[1]

    def median(*stages: str) -> float:
        return statistics.median(sum(row[f"seconds_{stage}"] for stage in stages) for row in rows)

    replay = median("insert", "other") / REPLAY_CALLS
    return {
        "sample": median("sample", "decode") + replay - stated.sample_s,  # the last call overlaps with the next task
        "score": median("score") - stated.score_s,
        "replay": replay,
        "learn": median("learn") - stated.learn_s,
        "publish": median("publish") / 2,  # the publisher's half; activation in the generator is the other
    }


def _times(costs: dict[str, float], stated: Stated) -> ServiceTimes:
    replay, publish = costs["replay"], costs["publish"]
    return ServiceTimes(
        sample=stated.sample_s + costs["sample"],
        activate=publish,
        score=stated.score_s + costs["score"],
        insert=replay,
        take=replay,
        commit=replay,
        stats=replay,
        learn=stated.learn_s + costs["learn"],
        publish=publish,
    )


def _throughput(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["sequences"] for row in rows) / sum(row["seconds_step"] for row in rows))


def _off(simulated: float, real: float) -> str:
    return "0 %" if simulated == real else f"{(simulated / real - 1) * 100:+.1f} %" if real else "-"


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
