"""Clips with known measures, and what is heard of clips without making any."""

from __future__ import annotations

import numpy as np

from feedback.simulated_measures import MEASURES
from feedback.simulated_parameters import Parameters
from feedback.simulated_utility import Heard

FLOOR = -9.0


def notes(starts_s: list[float], bands: list[int], seconds: float = 4.0, length_s: float = 0.1) -> np.ndarray:
    """Log-mel [1, 64, F] of decaying tones in single bands above a floor."""
    mel = np.full((1, 64, round(seconds * 50)), FLOOR, np.float32)
    for start, band in zip(starts_s, bands, strict=True):
        first, last = round(start * 50), round((start + length_s) * 50)
        mel[0, band, first:last] = -2.0 - 0.1 * np.arange(min(last, mel.shape[-1]) - first)
    return mel


def random_heard(parameters: Parameters, clips: int, seed: int) -> Heard:
    """What is heard of clips about as different as the base policy's."""
    rng = np.random.default_rng(seed)
    centres = np.stack([group.centre for group in parameters.groups])
    middle, spread = centres.mean(0), centres.std(0) + 0.05
    return Heard(
        rng.beta(5, 4, clips),
        rng.beta(2, 1, clips),
        middle + spread * rng.standard_normal((clips, len(MEASURES))),
        -20.0 + 3.0 * rng.standard_normal(clips),
    )
