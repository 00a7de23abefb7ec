"""Accuracy, calibration, and what two listeners' agreement says of the best accuracy possible."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special

from rewards.preference_figures import (
    accuracy,
    accuracy_by_policies,
    calibration,
    choice_shares,
    clustered_share,
    hits,
    noise_ceiling,
)
from rewards.preference_pairs import NEITHER, TIE, A, B, PairSet, pairs_of_table
from tests.rewards.preference_parts import votes


def test_hits():
    difference = np.array([2.0, -1.0, 0.0, 3.0])
    assert hits(difference, np.array([A, A, B, B])).tolist() == [1.0, 0.0, 0.5, 0.0]


def test_accuracy_counts_decided_votes_only():
    pairs = pairs_of_table(votes(4))
    pairs = dataclasses.replace(pairs, choices=np.array([A, TIE, NEITHER, B], np.int8))
    share = accuracy(np.array([1.0, -9.0, -9.0, 1.0]), pairs)
    assert (share.value, share.n) == (0.5, 2)
    shares = choice_shares(pairs)
    assert (shares["tie"], shares["neither"], shares["first_of_decided"]) == (0.25, 0.25, 0.5)


def test_the_interval_of_a_share_has_the_width_of_theory():
    values = (np.random.default_rng(0).random(2000) < 0.6).astype(float)
    share = clustered_share(values, np.arange(2000))
    assert share.high - share.low == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 2000), rel=0.1)
    assert np.isnan(clustered_share(np.array([]), np.array([])).value)


def test_a_calibrated_forecast_has_no_calibration_error_and_a_bold_one_has():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 1.5, 20_000)
    choices = np.where(rng.random(20_000) < special.expit(log_odds), A, B)
    assert calibration(log_odds, choices)["ece"] < 0.012
    bold = calibration(4 * log_odds, choices)
    assert bold["ece"] > 0.1 and bold["log_loss"] > calibration(log_odds, choices)["log_loss"]
    rows = bold["reliability"]
    assert sum(row["votes"] for row in rows) == 20_000 and rows[-1]["predicted"] > rows[-1]["chosen"]


def test_calibration_literal():
    found = calibration(np.log([3.0, 3.0, 3.0, 3.0]), np.array([A, A, B, B]))
    assert found["ece"] == pytest.approx(0.25) and found["reliability"] == [
        {"predicted": pytest.approx(0.75), "chosen": 0.5, "votes": 4}
    ]


def test_accuracy_of_each_pair_of_policies():
    pairs = pairs_of_table(votes(200))
    truth = np.where(pairs.choices == A, 1.0, -1.0)
    right_on_q = np.where(pairs.policies_b == "q", truth, -truth)
    found = accuracy_by_policies(right_on_q, pairs)
    assert found["p, q"]["value"] == 1.0 and found["p, p"]["value"] == 0.0


def several_listeners(chance: np.ndarray, each: int) -> PairSet:
    """The same pairs voted on by `each` listeners, the second clip first for every other one."""
    rng = np.random.default_rng(0)
    base = pairs_of_table(votes(len(chance)))
    parts = []
    for listener in range(each):
        takes_a = rng.random(len(chance)) < chance
        swapped = listener % 2 == 1
        sides = {"codes_a": base.codes_b, "codes_b": base.codes_a} if swapped else {}
        choices = np.where(takes_a ^ swapped, A, B).astype(np.int8)
        names = np.array([f"l{listener}"] * len(chance), dtype=object)
        ids = np.array([f"{listener}-{i}" for i in range(len(chance))], dtype=object)
        parts.append(dataclasses.replace(base, **sides, choices=choices, listeners=names, vote_ids=ids))
    return PairSet(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(base)})


def test_agreement_bounds_the_best_accuracy():
    chance = np.random.default_rng(1).beta(0.8, 0.8, 1500)
    found = noise_ceiling(several_listeners(chance, 3))
    best = np.maximum(chance, 1 - chance).mean()
    assert found["agreement"] == pytest.approx((chance**2 + (1 - chance) ** 2).mean(), abs=0.02)
    assert found["ceiling_at_least"] - 0.02 < best < found["ceiling_at_most"] + 0.02
    assert found["pairs"] == 1500


def test_equally_hard_pairs_reach_the_upper_bound():
    found = noise_ceiling(several_listeners(np.full(3000, 0.7), 2))
    assert found["agreement"] == pytest.approx(0.58, abs=0.02)
    assert found["ceiling_at_most"] == pytest.approx(0.7, abs=0.03)


def test_without_second_votes_there_is_no_ceiling():
    assert noise_ceiling(pairs_of_table(votes(50))) is None
