"""A panel of simulated listeners: who they are, how likely each answers what, and the votes they cast.

    d = u_l(a) - u_l(b) + louder_l · ΔdB ± first_l + noise · logistic        a if d > tie, b if d < -tie, else a tie

u_l is the hidden utility with the listener's own weights and tastes about those of a group. Everything here says
"simulated": no person ever answered like this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from cluster.errors import UserError
from feedback.records import Choice, ListenerKind
from feedback.simulated_parameters import Parameters, Raters
from feedback.simulated_utility import Heard, weighed

KIND = ListenerKind.SIMULATED
MOST_DB = 6.0  # a larger difference in loudness counts as this
CELLS = 2_000_000  # clips x listeners x measures held at once


@dataclass(frozen=True)
class Panel:
    """L simulated listeners. Arrays [L, ...] in one order; tastes run over MEASURES, weights over PARTS."""

    parameters: Parameters
    names: tuple[str, ...]
    group: np.ndarray  # [L] int64, of parameters.groups
    weights: np.ndarray  # [L, 3]
    centre: np.ndarray  # [L, M]
    width: np.ndarray  # [L, M]
    taste_weight: np.ndarray  # [L, M]
    first: np.ndarray  # [L] utility of being heard first
    louder_per_db: np.ndarray  # [L]
    short_attention: np.ndarray  # [L] bool
    spam: np.ndarray  # [L] bool: answers at random
    plays_little: np.ndarray  # [L] bool: spam whose played ranges show it

    def __len__(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> tuple[str, ...]:
        """Each listener's group."""
        return tuple(self.parameters.groups[g].name for g in self.group)

    def take(self, rows: np.ndarray) -> Panel:
        """The listeners at `rows`."""
        columns = {name: column[rows] for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        return Panel(self.parameters, tuple(self.names[int(row)] for row in rows), **columns)

    @property
    def counted(self) -> Panel:
        """Without those whose played ranges give them away: whose votes pass "both were heard"."""
        return self.take(np.flatnonzero(~self.plays_little))


def draw_panel(parameters: Parameters, seed: int, count: int | None = None, raters: Raters | None = None) -> Panel:
    """The panel of `seed`: groups by their shares, deviations and biases at random.

    `raters`: a panel of those instead; they answer with care, so there is neither spam nor short attention among them.
    """
    rng = np.random.default_rng((seed, 4101 if raters is None else 4102))
    size = parameters.count if count is None else count
    group = _by_share(parameters.shares, size, rng)
    groups = parameters.groups
    middle = {key: np.stack([getattr(groups[g], key) for g in group]) for key in ("centre", "width", "weight")}
    spread = parameters.weight_spread
    weights = parameters.weights if raters is None else raters.weights
    centre = middle["centre"] + parameters.centre_spread * middle["width"] * rng.standard_normal(middle["width"].shape)
    own_weights = weights * np.exp(spread * rng.standard_normal((size, len(weights))))
    taste_weight = middle["weight"] * np.exp(spread * rng.standard_normal(middle["weight"].shape))
    first = rng.normal(parameters.first.mean, parameters.first.sd, size)
    louder = rng.normal(parameters.louder_per_db.mean, parameters.louder_per_db.sd, size)
    short, spam, little = (rng.random(size) for _ in range(3))
    careful = raters is not None
    return Panel(
        parameters,
        tuple(f"simulated-{'rater' if careful else 'listener'}-{seed}-{i:04d}" for i in range(size)),
        group,
        own_weights,
        centre,
        middle["width"],
        taste_weight,
        np.full(size, raters.first) if raters is not None else first,
        np.zeros(size) if careful else louder,
        (short < parameters.short_attention) & (not careful),
        (spam < parameters.spam) & (not careful),
        (spam < parameters.spam) & (little < parameters.spam_short) & (not careful),
    )


def _by_share(shares: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Group numbers [size] whose counts follow the shares as closely as whole numbers do, in random order."""
    edges = np.round(np.cumsum(shares) * size).astype(np.int64)
    return rng.permutation(np.searchsorted(edges, np.arange(size), side="right"))


def utilities(panel: Panel, heard: Heard) -> np.ndarray:
    """Each clip's utility for each listener. -> [B, L]."""
    step = max(1, CELLS // max(1, panel.centre.size))
    return np.concatenate([_utilities(panel, heard.take(slice(s, s + step))) for s in range(0, len(heard), step)])


def _utilities(panel: Panel, heard: Heard) -> np.ndarray:
    away = (heard.measures[:, None, :] - panel.centre) / panel.width  # [B, L, M]
    tasted = np.einsum("blm,lm->bl", np.exp(-0.5 * away**2), panel.taste_weight / panel.taste_weight.sum(1)[:, None])
    return weighed(heard, tasted, panel.weights.T, panel.parameters)


@dataclass(frozen=True)
class Duel:
    """P pairs as L listeners take them: the difference before order and noise, and the mean utility. [P, L] each."""

    difference: np.ndarray  # u(a) - u(b) and the louder clip's bonus
    level: np.ndarray  # mean utility of the two clips
    panel: Panel


def duel(panel: Panel, whole: tuple[Heard, Heard], prefix: tuple[Heard, Heard]) -> Duel:
    """`whole`, `prefix`: what is heard of the pairs' clips a and b, all of them and their beginnings."""
    differences, levels = [], []
    for a, b in (whole, prefix):
        worth_a, worth_b = utilities(panel, a), utilities(panel, b)
        louder = np.clip(a.loudness_db - b.loudness_db, -MOST_DB, MOST_DB)[:, None] * panel.louder_per_db
        differences.append(worth_a - worth_b + louder)
        levels.append((worth_a + worth_b) / 2)
    difference, level = (np.where(panel.short_attention, hasty, heard) for heard, hasty in (differences, levels))
    return Duel(difference, level, panel)


def chances(fight: Duel, noise: float, a_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """How likely each listener takes a, and b; the rest is ties and neither. -> two arrays [P, L].

    `a_first`: clip a is the one heard first.
    """
    panel, tie = fight.panel, fight.panel.parameters.tie
    shifted = fight.difference + (panel.first if a_first else -panel.first)
    takes_a = np.where(panel.spam, 0.5, expit((shifted - tie) / noise))
    takes_b = np.where(panel.spam, 0.5, expit((-shifted - tie) / noise))
    return takes_a, takes_b


def mean_chances(fight: Duel, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """`chances` averaged over both orders."""
    (a_ahead, b_behind), (a_behind, b_ahead) = chances(fight, noise, True), chances(fight, noise, False)
    return (a_ahead + a_behind) / 2, (b_behind + b_ahead) / 2


def agreement(fight: Duel, noise: float) -> float:
    """Share of pairs on which two different listeners take the same clip, where both decide; each in a random order."""
    takes_a, takes_b = mean_chances(fight, noise)
    same = _two_of(takes_a) + _two_of(takes_b)
    return float(same.sum() / _two_of(takes_a + takes_b).sum())


def _two_of(each: np.ndarray) -> np.ndarray:
    """Sum over ordered pairs of different listeners of the product of their chances. [P, L] -> [P]."""
    return each.sum(1) ** 2 - (each**2).sum(1)


def solve_noise(fight: Duel, wanted: float) -> float:
    """The noise at which listeners agree on the share `wanted` of pairs. Raises UserError where none does."""
    low, high = 1e-3, 100.0
    if not agreement(fight, high) < wanted < agreement(fight, low):
        raise UserError(
            f"agreement: got {wanted:.0%}, allowed {agreement(fight, high):.0%} to {agreement(fight, low):.0%}: "
            "what these listeners' tastes have in common sets a limit"
        )
    return float(brentq(lambda noise: agreement(fight, noise) - wanted, low, high, rtol=1e-4))


@dataclass(frozen=True)
class SimulatedVotes:
    """One answer to each of P pairs."""

    listener: np.ndarray  # [P] int64, row of the panel
    choice: tuple[Choice, ...]
    heard_a_s: np.ndarray  # [P] float64, as the played ranges claim
    heard_b_s: np.ndarray


def cast_votes(fight: Duel, noise: float, seconds: float, rng: np.random.Generator) -> SimulatedVotes:
    """Each pair goes to one listener at random; clip a is the one shown and heard first."""
    panel, pairs = fight.panel, len(fight.difference)
    listener, rows = rng.integers(len(panel), size=pairs), np.arange(pairs)
    shifted = fight.difference[rows, listener] + panel.first[listener] + noise * rng.logistic(size=pairs)
    shifted = np.where(panel.spam[listener], rng.choice([-np.inf, np.inf], size=pairs), shifted)
    low = fight.level[rows, listener] < panel.parameters.neither
    choice = tuple(_answer(float(d), bool(bad), panel.parameters.tie) for d, bad in zip(shifted, low, strict=True))
    briefly = np.minimum(panel.parameters.spam_short_s, seconds) * rng.random((2, pairs))
    heard = np.where(panel.plays_little[listener], briefly, seconds)
    return SimulatedVotes(listener, choice, heard[0], heard[1])


def _answer(difference: float, low: bool, tie: float) -> Choice:
    if abs(difference) > tie:
        return Choice.A if difference > 0 else Choice.B
    return Choice.NEITHER if low else Choice.TIE
