"""The likelihood of votes: literal numbers, a slow oracle shaped like the papers' formulas, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from rewards.preference_loss import vote_losses
from rewards.preference_pairs import NEITHER, TIE, A, B


def loss_of(difference: float, log_nu: float, choice: int, ties: str = "davidson") -> float:
    losses = vote_losses(torch.tensor([difference]), torch.tensor(log_nu), torch.tensor([choice]), ties)
    return float(losses[0])


@pytest.mark.parametrize(
    ("difference", "log_nu", "choice", "ties", "expected"),
    [
        (0.0, 0.0, A, "davidson", 1.0986123),  # three equal chances
        (0.0, 0.0, TIE, "davidson", 1.0986123),
        (2.0, 0.0, A, "davidson", 0.4076059),  # e / (e + 1/e + 1) = 0.66524
        (2.0, 0.0, B, "davidson", 2.4076059),
        (2.0, 0.0, TIE, "davidson", 1.4076059),
        (2.0, math.log(0.5), TIE, "davidson", 1.9702295),
        (0.0, -30.0, A, "half", 0.6931472),
        (1.0, -30.0, A, "half", 0.3132617),  # -log sigmoid(1)
        (1.0, -30.0, B, "half", 1.3132617),
        (1.0, -30.0, TIE, "half", 0.8132617),
        (1.0, -30.0, TIE, "drop", 0.0),
    ],
)
def test_literal_numbers(difference: float, log_nu: float, choice: int, ties: str, expected: float):
    assert loss_of(difference, log_nu, choice, ties) == pytest.approx(expected, abs=1e-6)


def oracle(score_a: float, score_b: float, side: float, nu: float) -> tuple[float, float, float]:
    """Chances of a, b and a tie, as Davidson and Beaver write them: worths, a tie factor, an order factor."""
    worth_a, worth_b, order = math.exp(score_a), math.exp(score_b), math.exp(-side)
    tie = nu * math.exp(-side / 2) * math.sqrt(worth_a * worth_b)
    total = worth_a + order * worth_b + tie
    return worth_a / total, order * worth_b / total, tie / total


def test_davidson_against_the_formula_with_worths():
    generator = torch.Generator().manual_seed(0)
    for score_a, score_b, side, log_nu in torch.randn(50, 4, generator=generator).tolist():
        chances = oracle(score_a, score_b, side, math.exp(log_nu))
        assert sum(chances) == pytest.approx(1.0)
        for choice, chance in zip((A, B, TIE), chances, strict=True):
            assert loss_of(score_a - score_b + side, log_nu, choice) == pytest.approx(-math.log(chance), abs=1e-5)


def test_decided_votes_keep_the_bradley_terry_odds():
    for difference in (-3.0, 0.4, 2.0):
        odds = loss_of(difference, 0.7, B) - loss_of(difference, 0.7, A)
        assert odds == pytest.approx(difference, abs=1e-5)


def test_a_tie_pulls_the_scores_together_and_a_dropped_one_does_not():
    for ties, pulls in (("davidson", True), ("half", True), ("drop", False)):
        difference = torch.tensor([1.5], requires_grad=True)
        vote_losses(difference, torch.tensor(0.0), torch.tensor([TIE]), ties).sum().backward()
        assert (float(difference.grad[0]) > 0.1) is pulls


def test_a_vote_for_neither_is_no_input():
    with pytest.raises(AssertionError, match="neither"):
        loss_of(0.0, 0.0, NEITHER)
