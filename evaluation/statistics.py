"""Is the result better than the base, and by how much: paired statistics over prompts.

The unit of resampling is the prompt. Base and result answer the same prompts with the same seeds, so the differences
per prompt carry the gain, and resampling whole prompts keeps the samples of one prompt together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["rises", "falls", "unchanged", "unknown"]
_CHUNK_CELLS = 4_000_000  # resampled indices held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.value * factor, low, high)


@dataclass(frozen=True)
class PairedGain:
    """How a score moved from base to result over n paired prompts."""

    n: int
    before: float  # mean of the base
    after: float  # mean of the result
    gain: Interval  # mean of the paired differences, raw units
    base_sd: float  # standard deviation between the base's clips, raw units
    gain_sd: Interval  # the gain in units of base_sd; NaN where base_sd is 0
    p_value: float  # Wilcoxon signed-rank, two-sided
    verdict: Verdict


def paired_gain(
    before: np.ndarray, after: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedGain:
    """Gain of `after` over `before`, both [N] or [N, S] (prompts x samples of each prompt).

    Prompts with a missing score on either side are left out (n counts the rest). The gain in units of the base's
    between-clip standard deviation takes that deviation as given: it is a unit, not an estimate under test.
    """
    base, result = _matrix(before), _matrix(after)
    if base.shape != result.shape:
        raise ValueError(f"paired scores: got shapes {base.shape} and {result.shape}, they must be equal")
    whole = np.isfinite(base).all(1) & np.isfinite(result).all(1)
    base, result = base[whole], result[whole]
    if len(base) == 0:
        nothing = Interval(np.nan, np.nan, np.nan)
        return PairedGain(0, np.nan, np.nan, nothing, np.nan, nothing, np.nan, "unknown")
    differences = result.mean(1) - base.mean(1)
    gain = bootstrap_mean(differences, level=level, resamples=resamples, seed=seed)
    base_sd = float(base.std(ddof=1)) if base.size > 1 else 0.0
    gain_sd = gain.scaled(1.0 / base_sd) if base_sd > 0 else Interval(np.nan, np.nan, np.nan)
    p_value = wilcoxon_p(differences)
    return PairedGain(
        len(base),
        float(base.mean()),
        float(result.mean()),
        gain,
        base_sd,
        gain_sd,
        p_value,
        verdict_of(gain, len(base)),
    )


def bootstrap_mean(values: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of values [N] with its percentile bootstrap interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    values = np.asarray(values, dtype=np.float64)
    means = np.concatenate([values[rows].mean(1) for rows in resampled_rows(len(values), resamples, seed)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """mean(numerator) / mean(denominator) of paired values [N] each, with its percentile interval."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    ratios = np.concatenate([top[r].mean(1) / bottom[r].mean(1) for r in resampled_rows(len(top), resamples, seed)])
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(top.mean() / bottom.mean()), float(low), float(high))


def bootstrap_position(
    values: np.ndarray,
    floor: np.ndarray,
    ceiling: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Where mean(values) stands between mean(floor), 0, and mean(ceiling), 1, with its percentile interval.

    floor and ceiling [M] are paired with each other (the same clips); values [N] are other clips.
    """
    x, low_end, high_end = (np.asarray(a, np.float64) for a in (values, floor, ceiling))
    of_values = np.concatenate([x[r].mean(1) for r in resampled_rows(len(x), resamples, seed)])
    ends = [(low_end[r].mean(1), high_end[r].mean(1)) for r in resampled_rows(len(low_end), resamples, seed + 1)]
    bottom, top = (np.concatenate(side) for side in zip(*ends, strict=True))
    low, high = np.quantile((of_values - bottom) / (top - bottom), [(1 - level) / 2, (1 + level) / 2])
    value = (x.mean() - low_end.mean()) / (high_end.mean() - low_end.mean())
    return Interval(float(value), float(low), float(high))


def resampled_rows(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Row indices of bootstrap samples, in chunks [R, rows] that fit memory; the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // max(1, rows))
    for start in range(0, resamples, chunk):
        yield rng.integers(0, rows, size=(min(chunk, resamples - start), rows))


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test that the differences are symmetric about zero; 1 if all are zero."""
    nonzero = np.asarray(differences, np.float64)
    nonzero = nonzero[nonzero != 0]
    return 1.0 if len(nonzero) == 0 else float(stats.wilcoxon(nonzero).pvalue)


def verdict_of(gain: Interval, n: int) -> Verdict:
    """The rule for a significant move: the whole 95 % interval on one side of zero. Below 6 prompts nothing is said:
    the percentile interval is too narrow there (and no signed-rank test could reach p < .05)."""
    if n < 6 or not np.isfinite(gain.low):
        return "unknown"
    if gain.low > 0:
        return "rises"
    return "falls" if gain.high < 0 else "unchanged"


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of a family of p-values. Source: Holm, Scand. J. Statist. 6, 1979."""
    finite = sorted((p, name) for name, p in p_values.items() if np.isfinite(p))
    adjusted, largest = {name: float("nan") for name in p_values}, 0.0
    for rank, (p, name) in enumerate(finite):
        largest = max(largest, min(1.0, p * (len(finite) - rank)))
        adjusted[name] = largest
    return adjusted


def _matrix(scores: np.ndarray) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
