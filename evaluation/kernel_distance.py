"""The kernel audio distance: how far apart two sets of clips are, unbiased at any number of clips.

    MMD^2 = mean_{i != j} k(r_i, r_j) + mean_{i != j} k(g_i, g_j) - 2 mean_{i, j} k(r_i, g_j)
    k(x, y) = exp(-|x - y|^2 / (2 s^2)),  s = the median distance between two reference clips

KAD = 100 MMD^2. As the estimate is unbiased it may be slightly negative where the sets agree.
Source: Chung et al. 2025 (arXiv 2502.15602), section 3; Gretton et al., JMLR 13, 2012, equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist

KAD_SCALE = 100.0
_MEDIAN_PAIRS = 2_000_000  # beyond so many, the median is taken over a drawn sample of rows


@dataclass(frozen=True)
class Kernels:
    """The kernel matrices of two sets: within the reference [M, M], within the generated [N, N], across [M, N]."""

    reference: np.ndarray
    generated: np.ndarray
    across: np.ndarray

    def squared_mmd(self, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> float:
        """The unbiased estimate; `rows` [M] and `columns` [N] count how often each clip is taken (default: once).

        Pairs of a clip with itself never count, so that a bootstrap sample, which repeats clips, is not pulled up.
        """
        r = np.ones(len(self.reference)) if rows is None else rows
        g = np.ones(len(self.generated)) if columns is None else columns
        between = float(r @ self.across @ g) / float(r.sum() * g.sum())
        return _mean_of_pairs(self.reference, r) + _mean_of_pairs(self.generated, g) - 2.0 * between


def kernel_distance(reference: np.ndarray, generated: np.ndarray, bandwidth: float = 0.0) -> float:
    """KAD of embeddings [M, D] and [N, D]; `bandwidth` 0 means the median of the reference."""
    return KAD_SCALE * kernels(reference, generated, bandwidth).squared_mmd()


def kernels(reference: np.ndarray, generated: np.ndarray, bandwidth: float = 0.0) -> Kernels:
    """Gaussian kernels of two sets. Raises ValueError with fewer than two clips of either, or no spread at all."""
    if min(len(reference), len(generated)) < 2:
        raise ValueError(f"embeddings: got {len(reference)} and {len(generated)} clips, at least 2 of each are needed")
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (reference, generated))
    width = bandwidth or median_distance(x)
    if width <= 0:
        raise ValueError("embeddings: all reference clips lie on one point, which gives no bandwidth")
    gamma = 1.0 / (2.0 * width**2)
    return Kernels(*(np.exp(-gamma * cdist(a, b, "sqeuclidean")) for a, b in ((x, x), (y, y), (x, y))))


def median_distance(rows: np.ndarray, seed: int = 0) -> float:
    """The lower median of the distances between all pairs of rows [M, D]; of drawn rows where there are very many."""
    most = int(np.sqrt(2 * _MEDIAN_PAIRS))
    if len(rows) > most:
        rows = rows[np.random.default_rng((seed, 83)).permutation(len(rows))[:most]]
    distances = pdist(np.asarray(rows, dtype=np.float64))
    return float(np.partition(distances, (len(distances) - 1) // 2)[(len(distances) - 1) // 2])


def _mean_of_pairs(kernel: np.ndarray, counts: np.ndarray) -> float:
    """Mean of k over pairs of two different clips, each pair as often as the counts say; k of a clip with itself is 1.

    0 / 0 where a bootstrap sample holds one clip only: NaN.
    """
    same = float((counts**2).sum())
    pairs = float(counts.sum()) ** 2 - same
    return (float(counts @ kernel @ counts) - same) / pairs if pairs else float("nan")
