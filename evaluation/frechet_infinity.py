"""The Frechet distance without the bias of a small set of generated clips: extrapolated to infinitely many.

The expected distance of n clips is close to a straight line in 1/n. Its value is measured at several n on subsets and
the line followed to 1/n = 0. The reference's own number of clips stays as it is.
Source: Chong and Forsyth, CVPR 2020 (arXiv 1911.07023), section 3; for audio Gui et al. 2023 (arXiv 2311.01616).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.diversity import frechet_distance

LEAST_CLIPS = 500  # of the smallest subset, as in Gui et al.; half the clips where there are fewer than 1,000


@dataclass(frozen=True)
class Extrapolation:
    """The line's value at infinitely many clips, its slope in 1/n, and how much of the variance it explains."""

    value: float
    slope: float
    r2: float
    points: tuple[tuple[int, float], ...]  # (n, distance)


def frechet_infinity(
    reference: np.ndarray,
    generated: np.ndarray,
    *,
    steps: int = 25,
    least: int = 0,
    seed: int = 0,
    replacement: bool = False,
) -> Extrapolation:
    """reference [M, D], generated [N, D], `steps` subsets of `least` to N generated clips (0: LEAST_CLIPS or N / 2).

    replacement: subsets are drawn with replacement, as the fadtk package does. Then a subset of n is a sample of the N
    at hand, whose own bias stays in the result; without replacement it is a sample of what they were drawn from.
    """
    count = len(generated)
    least = least or (LEAST_CLIPS if count >= 2 * LEAST_CLIPS else max(2, count // 2))
    if not 2 <= least < count or steps < 2:
        raise ValueError(f"clips: got {count} with subsets from {least} in {steps} steps, allowed 2 <= least < clips")
    rng = np.random.default_rng((seed, 89))
    sizes = [int(n) for n in np.linspace(least, count, steps)]
    points = []
    for n in sizes:
        rows = rng.choice(count, size=n, replace=replacement)
        points.append((n, frechet_distance(generated[rows], reference)))
    return extrapolate(points)


def extrapolate(points: list[tuple[int, float]]) -> Extrapolation:
    """Least squares of the distance over 1/n."""
    n, distance = np.array(points, dtype=np.float64).T
    slope, value = np.polyfit(1.0 / n, distance, 1)
    spread = ((distance - distance.mean()) ** 2).sum()
    left = ((distance - (slope / n + value)) ** 2).sum()
    r2 = 1.0 - left / spread if spread > 0 else float("nan")
    return Extrapolation(float(value), float(slope), float(r2), tuple(points))
