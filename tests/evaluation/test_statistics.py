import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_position,
    bootstrap_ratio,
    holm,
    paired_gain,
    verdict_of,
    wilcoxon_p,
)


def test_gain_of_a_known_shift_in_units_of_the_base_spread():
    base = np.random.default_rng(0).normal(3.0, 2.0, 400)
    noise = np.random.default_rng(1).normal(0.0, 0.4, 400)
    gain = paired_gain(base, base + 1.0 + noise)
    assert gain.base_sd == pytest.approx(base.std(ddof=1))
    assert gain.gain.value == pytest.approx((1.0 + noise).mean())
    assert gain.gain_sd.value == pytest.approx(gain.gain.value / base.std(ddof=1))
    # the normal interval of a mean of 400: a bootstrap that ignored the pairing would be five times as wide
    half = 1.96 * noise.std(ddof=1) / 20
    assert gain.gain.high - gain.gain.value == pytest.approx(half, rel=0.1)
    assert gain.verdict == "rises" and gain.p_value < 1e-10


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        interval = bootstrap_mean(rng.exponential(1.0, 256) - 1.0, resamples=600, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.90 <= hits / 400 <= 0.98


def test_no_gain_is_called_significant_about_5_times_in_100():
    rng = np.random.default_rng(3)
    verdicts = []
    for trial in range(300):
        base = rng.normal(size=64)
        verdicts.append(paired_gain(base, base + rng.normal(size=64), resamples=500, seed=trial).verdict)
    assert verdicts.count("unchanged") / 300 > 0.90
    assert {"rises", "falls"} <= set(verdicts)  # both kinds of error occur, neither side is favoured out of sight


def test_samples_of_one_prompt_stay_together():
    """Two samples that are copies carry no more than one: the interval must not shrink."""
    rng = np.random.default_rng(4)
    base, result = rng.normal(size=50), rng.normal(0.3, 1, 50)
    once, twice = paired_gain(base, result), paired_gain(np.stack([base] * 2, 1), np.stack([result] * 2, 1))
    assert twice.gain == once.gain and twice.n == 50


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(5).normal(size=40)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_missing_scores_leave_their_prompt_out():
    base, result = np.arange(10.0), np.arange(10.0) + 2
    base[3] = np.nan
    result[7] = np.inf
    gain = paired_gain(base, result)
    assert gain.n == 8 and gain.gain == Interval(2.0, 2.0, 2.0)


def test_nothing_to_compare_is_unknown():
    gain = paired_gain(np.full(4, np.nan), np.ones(4))
    assert gain.n == 0 and gain.verdict == "unknown" and np.isnan(gain.gain_sd.value)


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        paired_gain(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize(
    ("interval", "n", "verdict"),
    [
        (Interval(0.2, 0.1, 0.3), 64, "rises"),
        (Interval(-0.2, -0.3, -0.1), 64, "falls"),
        (Interval(0.2, -0.1, 0.5), 64, "unchanged"),
        (Interval(0.2, 0.0, 0.5), 64, "unchanged"),
        (Interval(0.2, 0.1, 0.3), 5, "unknown"),
    ],
)
def test_verdicts(interval, n, verdict):
    assert verdict_of(interval, n) == verdict


def test_wilcoxon_against_scipy_and_on_nothing_but_zeros():
    differences = np.random.default_rng(6).normal(0.3, 1, 30)
    assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert wilcoxon_p(np.zeros(9)) == 1.0


def test_ratio_of_paired_means():
    base = np.random.default_rng(7).uniform(1, 2, 200)
    ratio = bootstrap_ratio(0.8 * base, base)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.8, 0.8, 0.8))


def test_a_ratio_over_ones_is_the_mean():
    values = np.random.default_rng(8).normal(size=60)
    assert bootstrap_ratio(values, np.ones(60), level=0.8) == bootstrap_mean(values, level=0.8)


def test_the_mean_of_few_values_by_hand():
    interval = bootstrap_mean(np.array([0.0, 1.0]), level=0.4)  # means 0, .5 and 1 with chances 1/4, 1/2, 1/4
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert bootstrap_mean(np.array([0.0, 1.0]), level=0.8) == Interval(0.5, 0.0, 1.0)


def test_position_between_floor_and_ceiling():
    rng = np.random.default_rng(8)
    floor, values = rng.normal(0.1, 0.2, 500), rng.normal(0.4, 0.2, 300)
    place = bootstrap_position(values, floor, floor + 0.5)
    assert place.value == pytest.approx((values.mean() - floor.mean()) / 0.5)
    # independent samples: the standard errors of both means add up
    half = 1.96 * np.hypot(values.std() / np.sqrt(300), floor.std() / np.sqrt(500)) / 0.5
    assert place.high - place.low == pytest.approx(2 * half, rel=0.1)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": float("nan")}, nan_ok=True
    )
