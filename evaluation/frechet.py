"""Did the result move towards real clips or away: the Frechet distance with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.diversity import frechet_distance
from evaluation.statistics import Interval, Verdict, resampled_rows, verdict_of


@dataclass(frozen=True)
class FrechetChange:
    """Distances from real clips; smaller is nearer. A verdict of "falls" is the good one."""

    base: float
    result: float
    change: Interval
    verdict: Verdict


def frechet_change(base: np.ndarray, result: np.ndarray, real: np.ndarray, resamples: int = 400) -> FrechetChange:
    """Paired bootstrap of the change: the same prompts are drawn for base and result, real clips apart from them.

    base, result [N, D] of the same prompts in the same order, real [M, D]. A resample repeats clips, which shifts every
    distance upwards by about the same amount; in the difference the shift cancels, so the interval is centred anew.
    """
    near, far = frechet_distance(result, real), frechet_distance(base, real)
    rows = np.concatenate(list(resampled_rows(len(base), resamples, 0)))
    others = np.concatenate(list(resampled_rows(len(real), resamples, 1)))
    changes = np.array(
        [
            frechet_distance(result[r], real[o]) - frechet_distance(base[r], real[o])
            for r, o in zip(rows, others, strict=True)
        ]
    )
    spread = np.quantile(changes - changes.mean(), [0.025, 0.975])
    change = Interval(near - far, near - far + float(spread[0]), near - far + float(spread[1]))
    return FrechetChange(far, near, change, verdict_of(change, len(base)))
