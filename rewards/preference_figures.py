"""How well scores foretell votes: accuracy with its interval, calibration, and the best that noise allows.

Accuracy counts decided votes only: a tie has no right answer. The side is left out of it, since a score knows no side.
Intervals resample whole prompts, because votes on clips of one prompt are alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from rewards.preference_pairs import NEITHER, TIE, A, PairSet

BINS = 10
FEWEST_OF_A_PAIR = 30  # decided votes below which a pair of policies gets no figure of its own


@dataclass(frozen=True)
class Share:
    """A share of n votes with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def hits(difference: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Score differences a - b of decided votes -> [P] 1 where the higher score was chosen, 0.5 if equal, else 0."""
    signed = np.where(choices == A, difference, -difference)
    return np.where(signed > 0, 1.0, np.where(signed == 0, 0.5, 0.0))


def accuracy(difference: np.ndarray, pairs: PairSet, seed: int = 0) -> Share:
    """Share of the decided votes whose higher-scored clip was chosen. difference [P] of all votes of `pairs`."""
    rows = pairs.decided & np.isfinite(difference)
    return clustered_share(hits(difference[rows], pairs.choices[rows]), pairs.prompts[rows], seed)


def clustered_share(values: np.ndarray, clusters: np.ndarray, seed: int = 0, resamples: int = 2000) -> Share:
    """Mean of values [n] with a percentile interval over resampled clusters. NaN for n = 0."""
    if not len(values):
        return Share(float("nan"), float("nan"), float("nan"), 0)
    means = resampled_means(values, clusters, seed, resamples)
    low, high = np.quantile(means, [0.025, 0.975])
    return Share(float(values.mean()), float(low), float(high), len(values))


def resampled_means(values: np.ndarray, clusters: np.ndarray, seed: int = 0, resamples: int = 2000) -> np.ndarray:
    """[R] means of `values` [n], whole clusters drawn with replacement.

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (resampling of clusters).
    """
    _, member = np.unique(clusters.astype(str), return_inverse=True)
    totals, counts = np.bincount(member, values), np.bincount(member)
    rng, means = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(0, len(totals), len(totals))
        means.append(totals[drawn].sum() / counts[drawn].sum())
    return np.array(means)


def fit_temperature(difference: np.ndarray, choices: np.ndarray) -> float:
    """The tau that makes sigmoid(difference / tau) most likely for decided votes; 1 where they cannot say.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    signed = np.where(choices == A, difference, -difference).astype(np.float64)
    if len(signed) < 2 or np.allclose(signed, 0):
        return 1.0

    def loss(log_tau: float) -> float:
        return float(-special.log_expit(signed * np.exp(-log_tau)).mean())

    found = optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def calibration(difference: np.ndarray, choices: np.ndarray) -> dict[str, Any]:
    """Log loss, expected calibration error and the table behind it, for P(a) = sigmoid(difference) of decided votes.

    The table has one row for each tenth of P(a) that occurs: its mean, the share of a among the votes, their number.
    Source: Guo et al. 2017, equation 3.
    """
    chance = special.expit(difference.astype(np.float64))
    chosen = (choices == A).astype(np.float64)
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    rows = [(chance[place == b].mean(), chosen[place == b].mean(), int((place == b).sum())) for b in np.unique(place)]
    return {
        "log_loss": float(-special.log_expit(np.where(choices == A, difference, -difference)).mean()),
        "ece": float(sum(n * abs(p - share) for p, share, n in rows) / max(len(chance), 1)),
        "reliability": [{"predicted": float(p), "chosen": float(share), "votes": n} for p, share, n in rows],
    }


def accuracy_by_policies(difference: np.ndarray, pairs: PairSet) -> dict[str, dict[str, float]]:
    """ "P, Q" (sorted) -> accuracy on votes between clips of these two policies; those with too few are left out."""
    names = np.array([", ".join(sorted(two)) for two in zip(pairs.policies_a, pairs.policies_b, strict=True)])
    found = {}
    for name in np.unique(names):
        rows = names == name
        share = accuracy(difference[rows], pairs.take(rows))
        if share.n >= FEWEST_OF_A_PAIR:
            found[str(name)] = asdict(share)
    return found


def choice_shares(pairs: PairSet) -> dict[str, float]:
    """What the votes say, whatever a model makes of them."""
    decided = pairs.decided
    return {
        "tie": float((pairs.choices == TIE).mean()),
        "neither": float((pairs.choices == NEITHER).mean()),
        "first_of_decided": float((pairs.choices[decided] == A).mean()) if decided.any() else float("nan"),
    }


def noise_ceiling(pairs: PairSet) -> dict[str, float] | None:
    """Between which bounds the best possible accuracy lies, from pairs that several listeners voted on; None without.

    Let p be the chance that a random listener prefers one clip of a pair, and m = |2p - 1|. Two listeners agree with
    chance A = E[p^2 + (1-p)^2] = (1 + E[m^2]) / 2; the best scores are right with chance E[max(p, 1-p)] =
    (1 + E[m]) / 2. Since E[m^2] <= E[m] <= sqrt(E[m^2]), the ceiling lies in [A, (1 + sqrt(2A - 1)) / 2].
    """
    agreements, clusters = _agreements(pairs)
    if not len(agreements):
        return None
    share = clustered_share(agreements, clusters)
    upper = (1 + np.sqrt(max(2 * share.value - 1, 0.0))) / 2
    return {
        "agreement": share.value,
        "agreement_low": share.low,
        "agreement_high": share.high,
        "pairs": share.n,
        "ceiling_at_least": max(share.value, 0.5),
        "ceiling_at_most": float(upper),
    }


def _agreements(pairs: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of clips with several decided votes of different listeners: how often two of them agree."""
    chosen: dict[tuple[str, bytes, bytes], dict[str, int]] = {}
    for row in np.flatnonzero(pairs.decided):
        a = pairs.codes_a[row, :, : pairs.frames_a[row]].tobytes()
        b = pairs.codes_b[row, :, : pairs.frames_b[row]].tobytes()
        swapped = b < a
        key = (str(pairs.prompts[row]), b, a) if swapped else (str(pairs.prompts[row]), a, b)
        vote = int(pairs.choices[row] == A) ^ int(swapped)
        chosen.setdefault(key, {}).setdefault(str(pairs.listeners[row]), vote)
    found = [(list(votes.values()), key[0]) for key, votes in chosen.items() if len(votes) > 1]
    values = [_agreement(votes) for votes, _ in found]
    return np.array(values), np.array([prompt for _, prompt in found], dtype=object)


def _agreement(votes: list[int]) -> float:
    """Chance that two different votes of the list are the same."""
    n, ones = len(votes), sum(votes)
    return (ones * (ones - 1) + (n - ones) * (n - ones - 1)) / (n * (n - 1))
