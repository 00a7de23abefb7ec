"""How different are the clips: within one prompt, and between two sets of clips."""

from __future__ import annotations

import numpy as np


def mean_pairwise_distance(embeddings: np.ndarray) -> np.ndarray:
    """Mean cosine distance between the samples of each prompt.

    embeddings [P, S, D], S >= 2 samples of each of P prompts -> [P], each in [0, 2]:
    1 - mean over pairs i < j of cos(e_i, e_j).
    """
    if embeddings.ndim != 3 or embeddings.shape[1] < 2:
        raise ValueError(f"embeddings: got shape {embeddings.shape}, allowed [P, S, D] with S >= 2")
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True).clip(1e-12)
    samples = unit.shape[1]
    # sum over all ordered pairs = |sum of unit vectors|^2 - S, so no S x S matrix is needed
    ordered = (unit.sum(1) ** 2).sum(-1) - samples
    return 1.0 - ordered / (samples * (samples - 1))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of embeddings, [N, D] and [M, D].

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); small sets are biased upwards, so compare equal sizes.
    Source: Dowson and Landau, J. Multivariate Analysis 12, 1982; used for audio by Kilgour et al., 2019 (FAD).
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"embeddings: got {len(a)} and {len(b)} clips, at least 2 of each are needed")
    mean_gap = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    spread_a, spread_b = _covariance(a), _covariance(b)
    # (S_a S_b)^(1/2) has the trace of the symmetric (S_a^(1/2) S_b S_a^(1/2))^(1/2), whose eigenvalues are real
    root_a = _symmetric_root(spread_a)
    shared = np.linalg.eigvalsh(root_a @ spread_b @ root_a).clip(0.0)
    return float(mean_gap @ mean_gap + np.trace(spread_a) + np.trace(spread_b) - 2.0 * np.sqrt(shared).sum())


def _covariance(rows: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(rows.astype(np.float64), rowvar=False))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
