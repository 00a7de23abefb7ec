"""Do generated clips sound like what the real clip of the same caption is: KL between a classifier's answers.

    KL(reference || generated) = sum_c p_c (ln p_c - ln(q_c + 1e-6)),  0 ln 0 = 0

p and q are the classifier's probabilities for the real and the generated clip of one caption; nats, averaged over
pairs. A classifier with several questions, each with its own distribution, gives the sum over its questions.
Source: Kreuk et al. 2022 (AudioGen, arXiv 2209.15352), section 4.2; the floor of 1e-6 as in audiocraft.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from rewards.port import ClipBatch

FLOOR = 1e-6


@runtime_checkable
class Classifier(Protocol):
    """What tells how likely each class is for a clip."""

    version: str

    def class_probabilities(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, M] float; each question's distribution side by side."""
        ...


def class_divergence(reference: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Probabilities [N, M] of the real and the generated clip of each pair -> [N] nats. Raises ValueError."""
    if reference.shape != generated.shape or reference.ndim != 2:
        raise ValueError(f"probabilities: got shapes {reference.shape} and {generated.shape}, allowed equal [N, M]")
    p, q = (np.asarray(rows, dtype=np.float64) for rows in (reference, generated))
    entropy = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)
    return (entropy - p * np.log(q + FLOOR)).sum(1)
