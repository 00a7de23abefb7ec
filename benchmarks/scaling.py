"""The simulated pipeline against real runs, and what it says of larger fleets: the tables of docs/scaling.md.

    python -m benchmarks.scaling [what=check,fleets] [steps=14]

check: a real run on simulated actors of known speed (benchmarks.simulated_run) sets the constants, which are what the
calls of Ray, the replay store and the weight bus cost on this machine; then other shapes, real and simulated, side by
side. fleets: from 1 to 512 generators and 0.3 to 3.3 billion parameters, by arithmetic and simulation
(learner.simulated_fleet).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.simulated_run import SimulatedCrew, Stated, prepare
from configs.command_line import exit_status_of, parse_settings

TASK_ROWS = 8
REPLAY_CALLS = 4  # of a step with one task: insert, take, commit, stats

Rows = list[dict[str, Any]]
USUAL = Stated()


@dataclass(frozen=True)
class Settings:
    what: str = "check,fleets"
    steps: int = 14


@dataclass(frozen=True)
class Check:
    """One shape; in tasks of TASK_ROWS rows."""

    generators: int
    tasks: int  # a batch
    max_staleness: int
    stated: Stated = USUAL


# One task a batch, one generator, synchronous: one thing after the other, so that each cost can be read off the ledger.
CALIBRATION = Check(1, 1, 0)
CHECKS = (  # fewer and fewer generators
    Check(4, 8, 0),
    Check(4, 4, 2, Stated(learn_s=1.2)),
    Check(4, 2, 1),
    Check(3, 2, 4, Stated(learn_s=0.5)),
    Check(2, 2, 0),
    Check(2, 2, 2),
    Check(1, 2, 0),
    Check(1, 2, 1),
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
    prepare(CALIBRATION.stated)
    from cluster.session import ray_session
    from learner.simulated_pipeline import simulate

    with ray_session():
        loads, measured = asyncio.run(_measure(steps))
    costs = _costs(measured.pop())
    print(f"{os.cpu_count()} CPUs. Seconds that one call costs beyond its work, from the run with one task a batch:\n")
    print("| " + " | ".join(costs) + " | load |\n" + "|---" * (len(costs) + 1) + "|")
    print("| " + " | ".join(f"{value:.3f}" for value in costs.values()) + f" | {loads.pop():.1f} |\n")
    columns = ("mode", "generators", "tasks a batch", "sample s", "learn s", "rows/s, real", "simulated", "off")
    columns += ("staleness, real", "simulated", "off", "load")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for each, rows, load in zip(CHECKS, measured, loads, strict=True):
        said, stated = simulate(_shape(each, steps), _times(costs, each.stated)), each.stated
        rows_per_s, staleness = _throughput(rows), statistics.fmean(row["staleness"] for row in rows)
        mode = f"async, at most {each.max_staleness}" if each.max_staleness else "sync"
        print(
            f"| {mode} | {each.generators} | {each.tasks} | {stated.sample_s} | {stated.learn_s} "
            f"| {rows_per_s:.2f} | {said.rows_per_s:.2f} | {_off(said.rows_per_s, rows_per_s)} "
            f"| {staleness:.2f} | {said.staleness:.2f} | {_off(said.staleness, staleness)} | {load:.1f} |"
        )


async def _measure(steps: int) -> tuple[list[float], list[Rows]]:
    """The load before, and the settled rows, of each check and then of the calibration."""
    loads, measured = list[float](), list[Rows]()
    crew = SimulatedCrew(max(each.generators for each in CHECKS))
    try:
        await crew.start()
        for each in (*CHECKS, CALIBRATION):
            loads.append(os.getloadavg()[0])
            measured.append(await crew.run(_shape(each, steps), each.stated))
            staleness = statistics.fmean(row["staleness"] for row in measured[-1])
            print(f"real: {each}: {_throughput(measured[-1]):.3f} rows/s, staleness {staleness:.3f}", file=sys.stderr)
    finally:
        await crew.close()
    return loads, measured


def _shape(each: Check, steps: int) -> Any:
    from learner.simulated_pipeline import Shape  # imports ray, after `prepare`

    return Shape(each.generators, 1, each.tasks * TASK_ROWS, TASK_ROWS, each.max_staleness, steps)


def _costs(rows: Rows) -> dict[str, float]:
    """What the calibration run's stages took beyond the stated work; one step of it is one task of each kind."""
    stated = CALIBRATION.stated

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


def _times(costs: dict[str, float], stated: Stated) -> Any:
    from learner.simulated_pipeline import ServiceTimes

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


def _throughput(rows: Rows) -> float:
    return float(sum(row["sequences"] for row in rows) / sum(row["seconds_step"] for row in rows))


def _off(simulated: float, real: float) -> str:
    return "0 %" if simulated == real else f"{(simulated / real - 1) * 100:+.1f} %" if real else "-"


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
