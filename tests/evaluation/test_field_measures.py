"""FAD, FAD-inf, KAD, KL and the CLAP score against closed forms and against slow readings of the field's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, stats

from evaluation.class_divergence import class_divergence
from evaluation.diversity import frechet_distance
from evaluation.field_measures import classifier_score, set_distances, text_score
from evaluation.frechet_infinity import extrapolate, frechet_infinity
from evaluation.kernel_distance import kernel_distance, kernels, median_distance


def slow_kad(reference: np.ndarray, generated: np.ndarray, bandwidth: float | None = None) -> float:
    """As the kadtk package defines it, one pair of clips at a time: 100 times the unbiased squared MMD."""
    if bandwidth is None:
        distances = sorted(np.linalg.norm(a - b) for i, a in enumerate(reference) for b in reference[i + 1 :])
        bandwidth = distances[(len(distances) - 1) // 2]

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-(np.linalg.norm(a - b) ** 2) / (2 * bandwidth**2))

    def within(rows: np.ndarray) -> float:
        pairs = [k(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = np.mean([k(a, b) for a in reference for b in generated])
    return 100 * (within(reference) + within(generated) - 2 * across)


def slow_fad(reference: np.ndarray, generated: np.ndarray) -> float:
    """As the fadtk package defines it: the trace of a root of the covariances' product, by its eigenvectors."""
    first, second = np.cov(reference, rowvar=False), np.cov(generated, rowvar=False)
    values, vectors = linalg.eig(first @ second)
    root = (vectors * np.sqrt(values.astype(complex))) @ linalg.inv(vectors)
    gap = reference.mean(0) - generated.mean(0)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def sets(seed: int = 0, count: int = 60, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    return rng.normal(size=(count, width)) @ mixing, rng.normal(size=(count - 7, width)) * 1.3 + 0.4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_are_those_of_the_fields_packages(seed):
    reference, generated = sets(seed)
    assert frechet_distance(reference, generated) == pytest.approx(slow_fad(reference, generated), abs=1e-6)
    assert kernel_distance(reference, generated) == pytest.approx(slow_kad(reference, generated), abs=1e-6)
    assert kernel_distance(reference, generated, 0.7) == pytest.approx(slow_kad(reference, generated, 0.7), abs=1e-6)


def test_the_bandwidth_is_the_references_not_the_generated_clips():
    reference, generated = sets()
    assert median_distance(reference) != pytest.approx(median_distance(generated), rel=0.1)
    assert kernel_distance(reference, generated) != pytest.approx(
        slow_kad(reference, generated, median_distance(generated)), abs=1e-3
    )


def gaussian_mmd(shift: float, first_sd: float, second_sd: float, width: float) -> float:
    """Squared MMD of N(0, first^2) and N(shift, second^2) under a Gaussian kernel, in closed form."""

    def mean_kernel(variance: float, apart: float) -> float:
        whole = width**2 + variance
        return width / math.sqrt(whole) * math.exp(-(apart**2) / (2 * whole))

    within = mean_kernel(2 * first_sd**2, 0) + mean_kernel(2 * second_sd**2, 0)
    return within - 2 * mean_kernel(first_sd**2 + second_sd**2, shift)


@pytest.mark.parametrize(("shift", "second_sd"), [(0.0, 1.0), (1.0, 1.0), (0.5, 2.0), (3.0, 0.3)])
def test_distances_of_gaussians_in_closed_form(shift, second_sd):
    """On the quantiles of two normal distributions, which stand for infinitely many clips."""
    places = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    reference, generated = places, shift + second_sd * places
    found = kernels(reference, generated, bandwidth=0.9).squared_mmd()
    assert found == pytest.approx(gaussian_mmd(shift, 1.0, second_sd, 0.9), abs=1e-3)
    exact = shift**2 + (1 - second_sd) ** 2
    sd = places.std(ddof=1)  # of the quantiles: a little below 1
    assert frechet_distance(reference, generated) == pytest.approx(shift**2 + (sd * (1 - second_sd)) ** 2, abs=1e-9)
    assert frechet_distance(reference / sd, shift + second_sd * places / sd) == pytest.approx(exact, abs=1e-3)


def test_kad_is_unbiased_at_few_clips_where_fad_is_not():
    rng = np.random.default_rng(4)
    many = [(rng.normal(size=(12, 4)), rng.normal(size=(12, 4))) for _ in range(400)]
    kad = np.array([kernel_distance(a, b, bandwidth=2.0) for a, b in many])
    assert abs(kad.mean()) < 4 * kad.std() / math.sqrt(len(kad))
    fad = np.array([frechet_distance(a, b) for a, b in many])
    assert fad.mean() > 20 * fad.std() / math.sqrt(len(fad))


def test_the_median_is_that_of_all_pairs():
    rows = np.array([[0.0], [1.0], [3.0], [7.0]])  # distances 1, 2, 3, 4, 6, 7
    assert median_distance(rows) == 3.0


def test_counts_of_a_resample_give_what_the_repeated_clips_would_without_pairs_of_a_clip_with_itself():
    reference, generated = sets(3, 9)
    matrices = kernels(reference, generated, 1.5)
    counts = np.array([2.0, 0, 1, 3, 1, 0, 1, 1, 0])
    rows = np.repeat(np.arange(9), counts.astype(int))
    pairs = [
        math.exp(-(np.linalg.norm(reference[i] - reference[j]) ** 2) / (2 * 1.5**2))
        for place, i in enumerate(rows)
        for other, j in enumerate(rows)
        if place != other and i != j
    ]
    across = np.mean([matrices.across[i].mean() for i in rows])
    whole = matrices.generated
    within = (whole.sum() - len(whole)) / (len(whole) * (len(whole) - 1))
    assert matrices.squared_mmd(rows=counts) == pytest.approx(np.mean(pairs) + within - 2 * across)


def test_points_on_one_spot_have_no_bandwidth():
    with pytest.raises(ValueError, match="one point"):
        kernel_distance(np.ones((5, 2)), np.zeros((5, 2)))


def test_fad_infinity_is_the_line_through_the_fields_points():
    points = [(10, 3.0), (20, 2.0), (40, 1.6), (80, 1.2)]
    slope, intercept = np.polyfit([1 / n for n, _ in points], [value for _, value in points], 1)
    found = extrapolate(points)
    assert (found.slope, found.value) == pytest.approx((slope, intercept), abs=1e-9)
    residual = [value - slope / n - intercept for n, value in points]
    assert found.r2 == pytest.approx(1 - np.var(residual) / np.var([value for _, value in points]))
    straight = extrapolate([(n, 0.5 + 7 / n) for n in (5, 9, 30)])
    assert (straight.value, straight.slope, straight.r2) == pytest.approx((0.5, 7.0, 1.0))


def test_fad_infinity_with_replacement_repeats_what_fadtk_does():
    reference, generated = sets(5, 80)
    found = frechet_infinity(reference, generated, steps=6, least=30, seed=3, replacement=True)
    rng = np.random.default_rng((3, 89))
    sizes = [int(n) for n in np.linspace(30, len(generated), 6)]
    points = [(n, slow_fad(reference, generated[rng.choice(len(generated), size=n, replace=True)])) for n in sizes]
    assert np.array(found.points) == pytest.approx(np.array(points), abs=1e-6)
    line = np.polyfit([1 / n for n, _ in points], [value for _, value in points], 1)
    assert found.value == pytest.approx(line[1], abs=1e-6)


def test_fad_infinity_takes_most_of_the_bias_of_few_generated_clips_away():
    rng = np.random.default_rng(6)
    reference = rng.normal(size=(20_000, 8))
    plain, infinite, repeated = [], [], []
    for trial in range(12):
        generated = rng.normal(size=(300, 8))
        plain.append(frechet_distance(reference, generated))
        infinite.append(frechet_infinity(reference, generated, least=60, seed=trial).value)
        repeated.append(frechet_infinity(reference, generated, least=60, seed=trial, replacement=True).value)
    # the true distance is 0
    assert abs(np.mean(infinite)) < 0.35 * np.mean(plain)
    assert abs(np.mean(infinite)) < 0.5 * abs(np.mean(repeated))


def test_too_few_clips_have_no_line():
    with pytest.raises(ValueError, match="allowed 2 <= least < clips"):
        frechet_infinity(np.zeros((5, 2)), np.zeros((2, 2)))


def test_class_divergence_is_audiocrafts():
    """sum p (ln p - ln(q + 1e-6)) by torch's own kl_div, rows with zeros among them."""
    import torch

    rng = np.random.default_rng(7)
    p, q = (rng.dirichlet([0.2] * 6, size=9) for _ in range(2))
    p[0, 2], q[1, 3] = 0.0, 0.0
    kl = torch.nn.functional.kl_div(torch.log(torch.from_numpy(q) + 1e-6), torch.from_numpy(p), reduction="none")
    assert class_divergence(p, q) == pytest.approx(kl.sum(-1).numpy(), abs=1e-9)
    half, sure = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert class_divergence(sure, half) == pytest.approx(math.log(2), abs=1e-5)
    assert class_divergence(half, half) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="allowed equal"):
        class_divergence(half, np.ones((2, 2)))


def test_text_and_classifier_scores_are_means_with_intervals_over_clips():
    clips = np.array([[1.0, 0], [0, 2], [3, 3]])
    prompts = np.array([[2.0, 0], [1, 0], [1, 0]])
    score = text_score(clips, prompts)
    assert score.value == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)
    assert score.low <= score.value <= score.high and score.better == "higher" and score.clips == 3
    even = np.full((4, 2), 0.5)
    assert classifier_score(even, even).value == pytest.approx(0, abs=1e-5)


def test_intervals_hold_the_true_distance_about_as_often_as_they_say():
    """KAD of unit Gaussians 0.8 apart along each of two axes, 60 clips a side."""
    rng = np.random.default_rng(8)
    width, apart = 1.5, 0.8
    whole = width**2 + 2
    mean_kernel = width**2 / whole
    truth = 100 * (2 * mean_kernel - 2 * mean_kernel * math.exp(-(2 * apart**2) / (2 * whole)))
    held = 0
    for trial in range(60):
        reference, generated = rng.normal(size=(60, 2)), apart + rng.normal(size=(60, 2))
        kad = set_distances(reference, generated, resamples=60, bandwidth=width, seed=trial)[-1]
        assert kad.name == "KAD"
        held += kad.low <= truth <= kad.high
    assert held >= 50  # 57 are expected
