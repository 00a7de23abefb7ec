"""Which system do raters prefer: wins, ties and losses of each pair of systems, and each system's mean mark.

A rating is a win where the system's clip got the higher mark, a tie where the marks are equal. The win rate leaves ties
out: wins / (wins + losses). Ratings of one prompt stand together, so intervals resample whole prompts, and the test
takes each prompt's mean difference.

Source: MusicRL section 4.3; figure 1 (shares), table 1 (mean opinion score and total wins).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from evaluation.rating_table import duels_of, marks, systems_of
from evaluation.statistics import Interval, bootstrap_ratio, holm, resampled_rows, wilcoxon_p

NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class SystemDuel:
    """`system` against `other`, from the first one's view."""

    system: str
    other: str
    ratings: int
    prompts: int
    win: Interval  # share of all ratings
    tie: Interval
    loss: Interval
    win_rate: Interval  # wins / (wins + losses); NaN where every rating is a tie
    mean_difference: Interval  # of the marks
    p_value: float  # Wilcoxon signed-rank over prompts, two-sided
    p_ratings: float  # the same over single ratings, as the paper counts; takes ratings of a prompt as independent
    p_holm: float = float("nan")  # p_value, adjusted for all pairs of systems

    @property
    def significant(self) -> bool:
        """At 5 % after adjustment."""
        return self.p_holm < 0.05


@dataclass(frozen=True)
class SystemMarks:
    """One system over all its ratings."""

    system: str
    mean: Interval  # mean opinion score
    wins: int
    ratings: int


@dataclass(frozen=True)
class Standings:
    """The whole comparison."""

    duels: tuple[SystemDuel, ...]
    systems: tuple[SystemMarks, ...]  # the best mean mark first
    raters: str  # rating_table's rater_kind, several with " and " between

    def duel(self, system: str, other: str) -> SystemDuel | None:
        """The comparison from `system`'s view; None where the two never met."""
        for found in self.duels:
            if (found.system, found.other) == (system, other):
                return found
            if (found.system, found.other) == (other, system):
                return reversed_duel(found)
        return None


def compare_systems(
    ratings: pa.Table, order: list[str] | None = None, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Standings:
    """ratings: rating_table.SCHEMA. `order`: systems from the one that is expected to be worst to the best, so that
    each duel is seen from the later one's side, as in the paper's figure 1; default: order of appearance."""
    known = systems_of(ratings)
    rank = {name: place for place, name in enumerate([*(order or []), *known][::-1])}  # the first mention counts
    pairs = [(a, b) if rank[a] < rank[b] else (b, a) for a, b in duels_of(ratings)]
    options = {"level": level, "resamples": resamples, "seed": seed}
    duels = [_duel(ratings, system, other, **options) for system, other in pairs]
    adjusted = holm({f"{d.system}\0{d.other}": d.p_value for d in duels})
    return Standings(
        tuple(replace(duel, p_holm=adjusted[f"{duel.system}\0{duel.other}"]) for duel in duels),
        tuple(sorted((_marks(ratings, name, **options) for name in known), key=lambda s: -s.mean.value)),
        " and ".join(sorted(set(ratings["rater_kind"].to_pylist()))),
    )


def reversed_duel(duel: SystemDuel) -> SystemDuel:
    """The same comparison from the other side."""
    rate, difference = duel.win_rate, duel.mean_difference
    return replace(
        duel,
        system=duel.other,
        other=duel.system,
        win=duel.loss,
        loss=duel.win,
        win_rate=Interval(1.0 - rate.value, 1.0 - rate.high, 1.0 - rate.low),
        mean_difference=Interval(-difference.value, -difference.high, -difference.low),
    )


def _duel(ratings: pa.Table, system: str, other: str, **options) -> SystemDuel:
    prompts, own, others = marks(ratings, system, other)
    difference = own - others
    counts = np.stack([np.ones(len(own)), difference > 0, difference == 0, difference < 0, difference], axis=1)
    rated, wins, ties, losses, gained = sums_by_prompt(prompts, counts).T
    return SystemDuel(
        system,
        other,
        len(own),
        len(rated),
        bootstrap_ratio(wins, rated, **options),
        bootstrap_ratio(ties, rated, **options),
        bootstrap_ratio(losses, rated, **options),
        _win_rate(wins, losses, **options),
        bootstrap_ratio(gained, rated, **options),
        wilcoxon_p(gained / rated),
        wilcoxon_p(difference),
    )


def _win_rate(wins: np.ndarray, losses: np.ndarray, *, level: float, resamples: int, seed: int) -> Interval:
    """Resamples in which every rating is a tie say nothing and are left out."""
    decided = wins + losses
    if not decided.sum():
        return NOTHING
    drawn = [(wins[rows].sum(1), decided[rows].sum(1)) for rows in resampled_rows(len(wins), resamples, seed)]
    top, bottom = (np.concatenate(side) for side in zip(*drawn, strict=True))
    low, high = np.quantile(top[bottom > 0] / bottom[bottom > 0], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(wins.sum() / decided.sum()), float(low), float(high))


def _marks(ratings: pa.Table, system: str, **options) -> SystemMarks:
    prompts: list[str] = []
    every: list[np.ndarray] = []
    wins = 0
    for a, b in duels_of(ratings):
        if system in (a, b):
            texts, own, others = marks(ratings, system, b if system == a else a)
            prompts += texts
            every.append(own)
            wins += int((own > others).sum())
    own = np.concatenate(every)
    total, count = sums_by_prompt(prompts, np.stack([own, np.ones(len(own))], axis=1)).T
    return SystemMarks(system, bootstrap_ratio(total, count, **options), wins, len(own))


def sums_by_prompt(prompts: list[str], values: np.ndarray) -> np.ndarray:
    """values [R, C] -> sums over the rows of each prompt, [P, C]."""
    _, row_of = np.unique(np.asarray(prompts), return_inverse=True)
    sums = np.zeros((row_of.max() + 1, values.shape[1]))
    np.add.at(sums, row_of, values)
    return sums
