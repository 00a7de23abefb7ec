"""From raw scores of several rewards to the one number that the learner sees: normalise, weight, sum.

    reward_b = sum_NAME weight_NAME * (raw_NAME,b - shift_NAME) / scale_NAME

Source: MusicRL section 3.3 combines rewards linearly and finds it best when they are on one scale (section 4.2);
the normalisation by the base policy's own mean and spread is our choice (DESIGN section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RewardSpec:
    """How one reward enters the mixture. weight 0: scored and shown, never part of the reward."""

    weight: float
    shift: float = 0.0
    scale: float = 1.0


def normalise(raw: np.ndarray, spec: RewardSpec) -> np.ndarray:
    """Raw scores [B] -> (raw - shift) / scale [B] float32. A non-finite score is missing: NaN, never a number."""
    raw = np.asarray(raw, dtype=np.float64)
    return np.where(np.isfinite(raw), (raw - spec.shift) / spec.scale, np.nan).astype(np.float32)


def mix(scores: Mapping[str, np.ndarray], specs: Mapping[str, RewardSpec]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Raw scores by NAME, each [B] -> (reward [B] float32, normalised scores by NAME).

    The reward of a clip is NaN where a reward of non-zero weight is missing there; a missing score of weight zero
    changes nothing. Summed in float64 in the order of `specs`, so that the result does not depend on the order in
    which the scorers answered. A name without a spec, or a spec without scores, is a ValueError: both are wiring.
    """
    if set(scores) != set(specs):
        raise ValueError(f"scores of {sorted(scores)} for rewards {sorted(specs)}")
    normalised = {name: normalise(scores[name], spec) for name, spec in specs.items()}
    sizes = {len(values) for values in normalised.values()}
    if len(sizes) != 1:
        raise ValueError(f"scores of different lengths: { {name: len(v) for name, v in normalised.items()} }")
    reward = np.zeros(sizes.pop(), dtype=np.float64)
    for name, spec in specs.items():
        if spec.weight != 0.0:
            reward += spec.weight * normalised[name].astype(np.float64)
    return reward.astype(np.float32), normalised
