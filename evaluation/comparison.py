"""Base against result, judge by judge, from the rows of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from evaluation.score_rows import judges_of, score_matrix, steps_of
from evaluation.statistics import PairedGain, paired_gain


@dataclass(frozen=True)
class Comparison:
    """One judge's word on base and result."""

    judge: str
    in_reward: bool  # True: the run trained on it
    gain: PairedGain


def compare_steps(rows: pa.Table, before_step: int, after_step: int) -> list[Comparison]:
    """Every judge that scored both checkpoints on the same prompts; the mixture first, then rewards, then judges."""
    found = []
    for in_reward in (True, False):
        for judge in judges_of(rows, in_reward=in_reward):
            before, after = score_matrix(rows, before_step, judge), score_matrix(rows, after_step, judge)
            if before.shape == after.shape and len(before):
                found.append(Comparison(judge, in_reward, paired_gain(before, after)))
    return found


def first_and_last(rows: pa.Table) -> tuple[int, int] | None:
    """The base's checkpoint and the newest one; None before there are two."""
    steps = steps_of(rows)
    return (steps[0], steps[-1]) if len(steps) > 1 else None
