"""Reward against KL: what each checkpoint gained, and how far from the reference it went for it.

Source: the frontier plots of Gao et al., Scaling Laws for Reward Model Overoptimization, 2022, figure 1: a held-out
score that turns down while the reward still rises with KL is the mark of a reward being exploited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from evaluation.score_rows import MIXTURE, score_matrix, steps_of
from evaluation.statistics import Interval, paired_gain

KL_WINDOW = 10  # learner steps averaged for the KL of a checkpoint: a single batch's is noisy


@dataclass(frozen=True)
class FrontierPoint:
    """One checkpoint."""

    learner_step: int
    kl_clip: float  # nats per training clip, from the reference
    gain_sd: Interval  # gain over step 0 in units of the base's between-clip standard deviation


def frontier(
    rows: pa.Table, metric_steps: np.ndarray, kl_clip: np.ndarray, judge: str = MIXTURE
) -> list[FrontierPoint]:
    """A point for each evaluated checkpoint, by KL. metric_steps [S] and kl_clip [S] are the run's metrics columns.

    The learner measures the KL of a step before its update, so a checkpoint takes the mean of the last
    KL_WINDOW steps up to it; step 0 is the reference itself unless the run starts elsewhere.
    """
    steps = steps_of(rows)
    if not steps:
        return []
    base = score_matrix(rows, steps[0], judge)
    points = []
    for step in steps:
        scores = score_matrix(rows, step, judge)
        if scores.shape != base.shape or not len(base):
            continue
        gain = paired_gain(base, scores).gain_sd
        points.append(FrontierPoint(step, kl_at(step, metric_steps, kl_clip), gain))
    return sorted(points, key=lambda point: point.kl_clip)


def kl_at(step: int, metric_steps: np.ndarray, kl_clip: np.ndarray) -> float:
    """KL per clip of checkpoint `step`: mean over the window that ends there; 0 at step 0 or where none is known."""
    window = (metric_steps > step - KL_WINDOW) & (metric_steps <= step) & np.isfinite(kl_clip)
    return float(kl_clip[window].mean()) if step > 0 and window.any() else 0.0
