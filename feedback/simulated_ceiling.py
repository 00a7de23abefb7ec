"""How well can simulated votes be predicted at best, and how well do simple rules do?

The best rule that does not know who votes, nor which clip is heard first, picks the clip that more of the panel would
take. With q = P(a | decided), averaged over listeners and both orders, its accuracy is

    E[decided · max(q, 1 - q)] / E[decided]

over pairs, ties and "neither" left out. It is computed from the panel's own chances, not estimated from votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.statistics import Interval, bootstrap_ratio
from feedback.simulated_panel import Duel, Panel, mean_chances


@dataclass(frozen=True)
class Answers:
    """How P pairs would be answered by a listener drawn at random, in a random order. All [P]."""

    takes_a: np.ndarray  # chance of a
    takes_b: np.ndarray  # chance of b; the rest is ties and neither
    best_known: np.ndarray  # mean over listeners of the likelier answer's chance: for who knows the listener

    @property
    def decided(self) -> np.ndarray:
        return self.takes_a + self.takes_b


def expected_answers(fight: Duel, noise: float, members: np.ndarray | None = None) -> Answers:
    """`members` [L] bool: of these listeners only."""
    takes_a, takes_b = mean_chances(fight, noise)
    if members is not None:
        takes_a, takes_b = takes_a[:, members], takes_b[:, members]
    return Answers(takes_a.mean(1), takes_b.mean(1), np.maximum(takes_a, takes_b).mean(1))


def best_accuracy(answers: Answers, level: float = 0.95) -> Interval:
    """Of the best rule that does not know the listener; the interval is over pairs."""
    return bootstrap_ratio(np.maximum(answers.takes_a, answers.takes_b), answers.decided, level=level)


def best_accuracy_known(answers: Answers, level: float = 0.95) -> Interval:
    """Of the best rule that knows the listener: the limit of every personal reward."""
    return bootstrap_ratio(answers.best_known, answers.decided, level=level)


def rule_accuracy(answers: Answers, score_a: np.ndarray, score_b: np.ndarray, level: float = 0.95) -> Interval:
    """Expected accuracy of "the clip with the higher score"; equal scores are a coin's throw. Scores [P]."""
    right = np.where(score_a > score_b, answers.takes_a, answers.takes_b)
    right = np.where(score_a == score_b, answers.decided / 2, right)
    return bootstrap_ratio(right, answers.decided, level=level)


def group_members(panel: Panel, group: str) -> np.ndarray:
    """[L] bool: the listeners of a group that do not click through."""
    return np.array([name == group for name in panel.groups]) & ~panel.spam
