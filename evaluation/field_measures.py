"""The measures that the field reports, each with its interval over clips.

Distances between sets (FAD, FAD-inf, KAD) are resampled on both sides. A resample repeats clips, which moves a distance
by about the same amount each time, so the spread of the resampled values is put around the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.class_divergence import class_divergence
from evaluation.diversity import frechet_distance
from evaluation.embedding import cosines
from evaluation.frechet_infinity import frechet_infinity
from evaluation.kernel_distance import KAD_SCALE, kernels
from evaluation.statistics import Interval, bootstrap_mean, resampled_rows

FEWEST_FOR_INFINITY = 20  # generated clips, below which a line through subsets says nothing
_STEPS_IN_RESAMPLES = 7  # of FAD-inf; the value itself takes 25


@dataclass(frozen=True)
class Measure:
    """One line of the result. `better` says which way is good."""

    name: str
    value: float
    low: float
    high: float
    clips: int
    better: str  # "lower" or "higher"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def set_distances(
    reference: np.ndarray, generated: np.ndarray, resamples: int = 200, bandwidth: float = 0.0, seed: int = 0
) -> list[Measure]:
    """FAD, FAD-inf (with enough clips) and KAD of embeddings [M, D] and [N, D], with 95 % intervals."""
    count = len(generated)
    pairs = list(_paired_resamples(len(reference), count, resamples, seed))
    fad = frechet_distance(reference, generated)
    found = [_centred("FAD", fad, [frechet_distance(reference[r], generated[g]) for r, g in pairs], count)]
    if count >= FEWEST_FOR_INFINITY:
        value = frechet_infinity(reference, generated, seed=seed).value
        few = pairs[: max(20, resamples // 4)]
        spread = [
            frechet_infinity(reference[r], generated[g], steps=_STEPS_IN_RESAMPLES, seed=seed).value for r, g in few
        ]
        found.append(_centred("FAD-inf", value, spread, count))
    matrices = kernels(reference, generated, bandwidth)
    weights = ((np.bincount(r, minlength=len(reference)), np.bincount(g, minlength=count)) for r, g in pairs)
    spread = [KAD_SCALE * matrices.squared_mmd(r.astype(float), g.astype(float)) for r, g in weights]
    return [*found, _centred("KAD", KAD_SCALE * matrices.squared_mmd(), spread, count)]


def text_score(clips: np.ndarray, prompts: np.ndarray, resamples: int = 2000) -> Measure:
    """The CLAP score: mean cosine of clips [N, D] with their prompts [N, D]."""
    return _mean("CLAP score", cosines(clips, prompts), resamples, "higher")


def classifier_score(reference: np.ndarray, generated: np.ndarray, resamples: int = 2000) -> Measure:
    """Mean KL in nats between the classes of real and generated clips [N, M] of the same captions."""
    return _mean("KL", class_divergence(reference, generated), resamples, "lower")


def _mean(name: str, values: np.ndarray, resamples: int, better: str) -> Measure:
    interval: Interval = bootstrap_mean(values, resamples=resamples)
    return Measure(name, interval.value, interval.low, interval.high, len(values), better)


def _paired_resamples(left: int, right: int, resamples: int, seed: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    rows = [row for chunk in resampled_rows(left, resamples, seed) for row in chunk]
    columns = [row for chunk in resampled_rows(right, resamples, seed + 1) for row in chunk]
    return list(zip(rows, columns, strict=True))


def _centred(name: str, value: float, resampled: Sequence[float], clips: int) -> Measure:
    """The spread of finite resampled values about their mean, put around `value`."""
    finite = np.array([v for v in resampled if np.isfinite(v)])
    low, high = np.quantile(finite - finite.mean(), [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return Measure(name, value, value + float(low), value + float(high), clips, "lower")


def lines_of(measures: Sequence[Measure]) -> list[str]:
    """A table for the terminal."""
    head = f"{'measure':<12}{'value':>10}  {'95 % interval':<24}{'clips':>6}  better"
    rows = [
        f"{m.name:<12}{m.value:>10.4f}  {f'[{m.low:.4f}, {m.high:.4f}]':<24}{m.clips:>6}  {m.better}" for m in measures
    ]
    return [head, *rows]
