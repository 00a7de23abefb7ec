"""What each judge said of each checkpoint of several runs, as one table: figures 4, 5, 7 and 8 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluation.frontier import kl_at
from evaluation.run_data import read_run
from evaluation.score_rows import judges_of, prompt_means, score_matrix, steps_of
from evaluation.statistics import bootstrap_mean

COLUMNS = pa.schema(
    [
        ("system", pa.string()),
        ("learner_step", pa.int64()),
        ("kl_clip", pa.float64()),  # nats a training clip, from the run's own reference
        ("judge", pa.string()),
        ("in_reward", pa.bool_()),  # the run trains on it: a reward of weight 0 is only recorded
        ("mean", pa.float64()),  # over the evaluation prompts, raw units
        ("low", pa.float64()),  # ends of its 95 % interval
        ("high", pa.float64()),
        ("prompts", pa.int64()),
    ]
)


def curve_table(runs: Mapping[str, str | Path], resamples: int = 2000) -> pa.Table:
    """runs: system -> run folder. One row a system, checkpoint and judge that scored it."""
    return pa.concat_tables([run_curve(system, folder, resamples) for system, folder in runs.items()])


def run_curve(system: str, folder: str | Path, resamples: int = 2000) -> pa.Table:
    """One run. A judge without a score of a checkpoint has no row there."""
    run = read_run(folder)
    kl = run.column("kl_clip")
    rows = []
    recorded = {name for name, entry in (run.config.get("rewards") or {}).items() if entry.get("weight") == 0}
    for scored in (True, False):
        for judge in judges_of(run.rows, in_reward=scored):
            in_reward = scored and judge not in recorded
            for step in steps_of(run.rows):
                scores = prompt_means(score_matrix(run.rows, step, judge))
                if not len(scores):
                    continue
                mean = bootstrap_mean(scores, resamples=resamples)
                far = kl_at(step, run.steps, kl) if kl is not None else float("nan")
                rows.append((system, step, far, judge, in_reward, mean.value, mean.low, mean.high, len(scores)))
    return pa.Table.from_pylist([dict(zip(COLUMNS.names, row, strict=True)) for row in rows], schema=COLUMNS)


def best_step(table: pa.Table, system: str, judge: str) -> int:
    """The checkpoint of a system that a judge scored highest. Raises ValueError where it scored none."""
    rows = [row for row in table.to_pylist() if row["system"] == system and row["judge"] == judge]
    if not rows:
        raise ValueError(f"{judge} scored no checkpoint of {system}")
    return rows[int(np.argmax([row["mean"] for row in rows]))]["learner_step"]
