"""What a trained preference model is worth: figures on votes that it has not learnt from, and its normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch

from rewards.preference import SCORED_AT_ONCE, Preference
from rewards.preference_figures import (
    accuracy,
    accuracy_by_policies,
    calibration,
    choice_shares,
    fit_temperature,
    noise_ceiling,
)
from rewards.preference_pairs import PairSet


class ScoresCodes(Protocol):
    """A shared model, or a personal one."""

    def score_codes(self, prompts: list[str], codes: np.ndarray) -> np.ndarray: ...


def score_pairs(model: ScoresCodes, pairs: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both clips of every vote, each clip at its own length -> [P], [P] float32."""
    sides = ((pairs.codes_a, pairs.frames_a), (pairs.codes_b, pairs.frames_b))
    first, second = (by_length(model.score_codes, pairs.prompts, codes, frames) for codes, frames in sides)
    return first, second


def difference_of(model: ScoresCodes, pairs: PairSet) -> np.ndarray:
    """[P] score of a less score of b."""
    first, second = score_pairs(model, pairs)
    return first - second


def temperature_of(model: Preference, valid: PairSet) -> float:
    """The factor by which scores are to be divided, so that they are log-odds of validation votes."""
    decided = valid.take(valid.decided)
    return fit_temperature(difference_of(model, decided) + float(model.net.side), decided.choices)


def normalisation_of(model: Preference, pairs: PairSet) -> tuple[float, float]:
    """Mean and standard deviation of the scores of all clips that were voted on."""
    scores = np.concatenate(score_pairs(model, pairs))
    return round(float(scores.mean()), 6), round(max(float(scores.std()), 1e-6), 6)


def measure(model: Preference, held_out: PairSet) -> dict[str, Any]:
    """Figures of a calibrated model on held-out votes, as training.json and the registry keep them."""
    difference = difference_of(model, held_out)
    decided = held_out.decided
    side = float(model.net.side) / model.facts.temperature
    return {
        "held_out": len(held_out),
        "accuracy": asdict(accuracy(difference, held_out)),
        "accuracy_with_side": asdict(accuracy(difference + side, held_out)),
        "accuracy_by_policies": accuracy_by_policies(difference, held_out),
        "calibration": calibration((difference + side)[decided], held_out.choices[decided]),
        "choices": choice_shares(held_out),
        "noise_ceiling": noise_ceiling(held_out),
        "temperature": model.facts.temperature,
        "side": side,
        "nu": float(model.net.log_nu.exp()),
    }


def pooled_features(model: Preference, pairs: PairSet) -> np.ndarray:
    """[2 P, D] float32: what the head reads of every clip, its first window."""
    window, found = model.facts.window_frames, []
    for codes, frames in ((pairs.codes_a, pairs.frames_a), (pairs.codes_b, pairs.frames_b)):
        text = model.net.encode_text(list(pairs.prompts))
        lengths, heard = torch.from_numpy(np.minimum(frames, window)), codes[..., :window].astype(np.int64)
        with torch.inference_mode():
            for rows in torch.arange(len(frames)).split(SCORED_AT_ONCE):
                found.append(model.net.features(torch.from_numpy(heard[rows.numpy()]), lengths[rows], text[rows]))
    return torch.cat(found).numpy()


def by_length(
    read: Callable[[list[str], np.ndarray], np.ndarray], prompts: np.ndarray, codes: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Applies `read` (prompts, codes [b, K, t] -> [b, ...]) to clips of one length at a time -> [P, ...]."""
    found: dict[int, np.ndarray] = {}
    for length in np.unique(frames):
        rows = np.flatnonzero(frames == length)
        values = read(list(prompts[rows]), codes[rows, :, :length])
        found.update(zip(rows.tolist(), values, strict=True))
    return np.stack([found[row] for row in range(len(frames))])
