"""A reward for one group or one listener: a small head on the shared, frozen model, fitted to a few hundred votes.

    score(clip) = s(clip) + w_0 s(clip) / sd(s) + w · z(clip)

s is the shared score, z the shared model's features along its axes, of unit spread over clips. The w are the only
numbers fitted: logistic regression of the decided votes with a squared penalty on w, which pulls toward the shared
score and reaches it where there are no votes. Its strength is chosen by cross-validation over prompts.
Source: MusicRL section 7 (personalisation named as future work); the form is our choice: a ridge toward a shared
solution, as in regularised multi-task learning (Evgeniou and Pontil, KDD 2004).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize, special

from cluster.errors import UserError
from rewards.checkpoint import CONFIG_FILE, load_checkpoint, read_config, save_checkpoint
from rewards.port import ClipBatch, ClipView
from rewards.preference import KIND, Preference
from rewards.preference_figures import Share, accuracy, clustered_share, hits
from rewards.preference_measure import by_length, score_pairs
from rewards.preference_pairs import A, PairSet

FOLDER = "personal"  # under the shared model's directory
NAME = re.compile(r"[\w.-]{1,64}")
FEWEST_VOTES, MOST_VOTES = 20, 300
PENALTIES = tuple(10.0**exponent for exponent in np.arange(-1.0, 3.6, 0.5).tolist())
FOLDS = 5


@dataclass(frozen=True)
class PersonalHead:
    """What was fitted. weights [1 + R]: of the shared score in its own spread, then of each axis."""

    weights: np.ndarray
    side: float  # log-odds of being heard first, for this listener
    penalty: float
    votes: int


class PersonalReward:
    """The reward model of rewards.port for one group or listener: a shared Preference and a head."""

    needs: frozenset[ClipView] = Preference.needs

    def __init__(
        self, shared: Preference, head: PersonalHead, version: str, shift: float, scale: float, name: str = KIND
    ) -> None:
        self.shared, self.head, self.version = shared, head, version
        self.shift, self.scale, self.name = shift, scale, name

    @classmethod
    def load(cls, directory: str | Path) -> PersonalReward:
        """Raises UserError where there is no head, or its shared model is missing or another than it was fitted on."""
        checkpoint = load_checkpoint(directory, KIND)
        entries = checkpoint.config.get("personal")
        if not isinstance(entries, dict):
            raise UserError(f"{directory}/{CONFIG_FILE}: describes no personal head")
        shared = Preference.load(Path(directory) / entries["shared"])
        if shared.version != entries["shared_version"]:
            raise UserError(
                f"{directory}: fitted on version {entries['shared_version']}, got {shared.version} in its place"
            )
        head = PersonalHead(
            checkpoint.weights["weights"].numpy(), entries["side"], entries["penalty"], entries["votes"]
        )
        return cls(shared, head, checkpoint.version, checkpoint.config["shift"], checkpoint.config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 log-odds; NaN where a clip holds a code that its stream does not have."""
        assert clips.codes is not None, "preference reads codes"
        return self.score_codes(clips.prompts, clips.codes)

    def score_codes(self, prompts: tuple[str, ...] | list[str], codes: np.ndarray) -> np.ndarray:
        """prompts [B], codes [B, K, T] -> [B] float32."""
        scores, features = self.shared.score_and_features(prompts, codes)
        return (scores + _columns(scores, features, self.shared.scale) @ self.head.weights).astype(np.float32)


def load_preference(directory: str | Path) -> Preference | PersonalReward:
    """The shared model or the personal head in a directory. Raises UserError where there is neither."""
    folder = Path(directory)
    personal = (folder / CONFIG_FILE).is_file() and "personal" in read_config(folder)
    return PersonalReward.load(folder) if personal else Preference.load(folder)


def fit_personal(shared: Preference, votes: PairSet, seed: int = 0) -> PersonalHead:
    """Fits a head to at most MOST_VOTES decided votes (drawn with `seed` where there are more).

    Raises UserError for fewer than FEWEST_VOTES.
    """
    decided = np.flatnonzero(votes.decided)
    if len(decided) < FEWEST_VOTES:
        raise UserError(f"personal: got {len(decided)} decided votes, allowed at least {FEWEST_VOTES}")
    rows = np.sort(np.random.default_rng(seed).permutation(decided)[:MOST_VOTES])
    votes = votes.take(rows)
    offset, columns = _differences(shared, votes)
    won = np.where(votes.choices == A, 1.0, -1.0)
    folds = _folds(votes.prompts, seed)
    penalty = chosen_penalty(
        np.stack([_cross_validated(offset, columns, won, folds, penalty) for penalty in PENALTIES])
    )
    found = _fit(offset, columns, won, penalty)
    return PersonalHead(found[1:].astype(np.float32), float(found[0]), penalty, len(votes))


def save_personal(shared_dir: str | Path, name: str, head: PersonalHead, shared: Preference, votes: PairSet) -> Path:
    """Writes the head beside its shared model -> its directory, which serves as rewards.preference.checkpoint.

    `votes` set its normalisation. Raises UserError for a name that is no file name.
    """
    if not NAME.fullmatch(name) or name.startswith("."):
        raise UserError(f"personal: got the name {name!r}, allowed letters, digits, _, - and . (at most 64)")
    folder = Path(shared_dir) / FOLDER / name
    facts = {"shared": "../..", "shared_version": shared.version, "side": head.side}
    facts |= {"penalty": head.penalty, "votes": head.votes}
    config: dict[str, Any] = {"kind": KIND, "personal": facts, "shift": 0.0, "scale": 1.0}
    weights = {"weights": torch.from_numpy(head.weights)}
    scores = np.concatenate(score_pairs(PersonalReward(shared, head, "", 0.0, 1.0), votes))
    config |= {"shift": round(float(scores.mean()), 6), "scale": round(max(float(scores.std()), 1e-6), 6)}
    save_checkpoint(folder, config, weights)
    return folder


def personal_gain(personal: PersonalReward, votes: PairSet, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Accuracy of head and shared model on votes that the head was not fitted to, and the paired difference.

    Prompts are resampled, as in rewards/preference_gate.py; the head predicts better where the whole interval of the
    gain lies above zero.
    """
    votes = votes.take(votes.decided)
    ours, theirs = (
        first - second for first, second in (score_pairs(personal, votes), score_pairs(personal.shared, votes))
    )
    differences = hits(ours, votes.choices) - hits(theirs, votes.choices)
    gain = clustered_share(differences, votes.prompts, seed)
    shares: dict[str, Share] = {
        "personal": accuracy(ours, votes, seed),
        "shared": accuracy(theirs, votes, seed),
        "gain": gain,
    }
    return {name: asdict(share) for name, share in shares.items()}


def _columns(scores: np.ndarray, features: np.ndarray, scale: float) -> np.ndarray:
    """[B], [B, R] -> [B, 1 + R], all of about unit spread over clips."""
    return np.concatenate([scores[:, None] / np.float32(scale), features], axis=1)


def _differences(shared: Preference, votes: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """a - b of each vote: the shared score [P], and the columns that the weights multiply [P, 1 + R]."""

    def read(prompts: list[str], codes: np.ndarray) -> np.ndarray:
        scores, features = shared.score_and_features(prompts, codes)
        return np.concatenate([scores[:, None], _columns(scores, features, shared.scale)], axis=1)

    sides = ((votes.codes_a, votes.frames_a), (votes.codes_b, votes.frames_b))
    first, second = (by_length(read, votes.prompts, codes, frames) for codes, frames in sides)
    both = (first - second).astype(np.float64)
    return both[:, 0], both[:, 1:]


def _folds(prompts: np.ndarray, seed: int) -> np.ndarray:
    """[P] fold of each vote; the votes of a prompt share theirs."""
    names, member = np.unique(prompts.astype(str), return_inverse=True)
    return np.random.default_rng(seed).permutation(len(names))[member] % FOLDS


def _fit(offset: np.ndarray, columns: np.ndarray, won: np.ndarray, penalty: float) -> np.ndarray:
    """-> [2 + R]: side, then weights. Minimises  sum_i -log sigmoid(won_i d_i) + penalty |w|^2 / 2,  convex."""
    design = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    strength = np.full(design.shape[1], penalty)
    strength[0] = 1.0  # the side is pulled to zero a little: with all votes for one side it would run away

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        margin = won * (offset + design @ x)
        gradient = -design.T @ (won * special.expit(-margin)) + strength * x
        return float(-special.log_expit(margin).sum() + 0.5 * (strength * x**2).sum()), gradient

    return optimize.minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x


def _cross_validated(
    offset: np.ndarray, columns: np.ndarray, won: np.ndarray, folds: np.ndarray, penalty: float
) -> np.ndarray:
    """[P] loss of each vote under the fit to the other folds, nats."""
    losses = np.empty(len(won))
    for fold in np.unique(folds):
        out = folds == fold
        x = _fit(offset[~out], columns[~out], won[~out], penalty)
        losses[out] = -special.log_expit(won[out] * (offset[out] + x[0] + columns[out] @ x[1:]))
    return losses


def chosen_penalty(losses: np.ndarray) -> float:
    """The penalty of the least loss, if that is below the strongest's by more than a standard error; else the
    strongest, which leaves the shared score as it is. losses [penalties, P], paired by vote."""
    best = int(np.argmin(losses.mean(1)))
    gain = losses[-1] - losses[best]
    return PENALTIES[best if gain.mean() > gain.std() / np.sqrt(len(gain)) else -1]
