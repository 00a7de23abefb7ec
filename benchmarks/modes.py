"""Synchronous against asynchronous runs of the same work, in turns: wall clock of the loop, staleness, the time ledger.

    python -m benchmarks.modes [rounds=2] [steps=30] [key=value of a run ...]

Each run is `python -m learner.main` in a process of its own. The loop's wall clock is taken from `time_unix` of the
metrics' first and last row, so that start-up and evaluation do not count. The ledger's share is the sum of its stages
over those rows divided by that clock.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

SYNC = ["pipeline.mode=sync", "learner.cpus=2", "actors.generators=2"]
ASYNC = ["pipeline.mode=async", "pipeline.max_staleness=2", "learner.cpus=1", "actors.generators=1"]


def main(arguments: list[str]) -> None:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    rounds, steps = int(given.pop("rounds", "2")), int(given.pop("steps", "30"))
    shared = [f"learner.steps={steps}", "evaluation.prompts=8", "evaluation.samples=1", "metrics.progress=off"]
    shared += [f"{key}={value}" for key, value in given.items()]
    print("| mode | seconds a step | staleness, mean | staleness, greatest | ledger / wall clock | load before |")
    print("|---|---|---|---|---|---|")
    times: dict[str, list[float]] = {"sync": [], "async": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for mode, settings in (("sync", SYNC), ("async", ASYNC)):
                run_dir = Path(folder) / f"{mode}-{turn}"
                load = os.getloadavg()[0]
                rows = measure(run_dir, [*settings, *shared])
                times[mode].append(rows["step_s"])
                print(
                    f"| {mode} | {rows['step_s']:.2f} | {rows['staleness']:.2f} | {rows['staleness_max']:.0f} "
                    f"| {rows['ledger']:.4f} | {load:.1f} |",
                    flush=True,
                )
    ratios = [fast / slow for fast, slow in zip(times["async"], times["sync"], strict=True)]
    print(
        f"\nasync / sync, time of a step: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to "
        f"{max(ratios):.2f}; {rounds} rounds of {steps} steps, {os.cpu_count()} cores"
    )


def measure(run_dir: Path, settings: list[str]) -> dict[str, float]:
    """One run -> seconds a step, staleness, the ledger's sum over the wall clock. All rows but the first and last."""
    command = [sys.executable, "-m", "learner.main", f"run.dir={run_dir}", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(run_dir / "metrics.parquet").to_pydict()
    clock = table["time_unix"][-2] - table["time_unix"][0]  # the last row holds the final evaluation
    stages = [name for name in table if name.startswith("seconds_") and name != "seconds_step"]
    ledger = sum(sum(value or 0.0 for value in table[name][1:-1]) for name in stages)
    return {
        "step_s": clock / (len(table["time_unix"]) - 2),
        "staleness": statistics.fmean(table["staleness"]),
        "staleness_max": max(table["staleness_max"]),
        "ledger": ledger / clock,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
