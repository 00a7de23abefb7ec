import numpy as np
import pytest

from evaluation.diversity import frechet_distance, mean_pairwise_distance
from evaluation.frechet import frechet_change


def slow_pairwise(samples: np.ndarray) -> float:
    pairs = [(a, b) for i, a in enumerate(samples) for b in samples[i + 1 :]]
    return float(np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))


def test_pairwise_distance_equals_the_loop_over_pairs():
    embeddings = np.random.default_rng(0).normal(size=(7, 5, 6))
    assert mean_pairwise_distance(embeddings) == pytest.approx([slow_pairwise(e) for e in embeddings])


def test_pairwise_distance_of_known_vectors():
    equal, opposite, square = [[1, 0], [5, 0]], [[1, 0], [-2, 0]], [[1, 0], [0, 3]]
    assert mean_pairwise_distance(np.array([equal, opposite, square], float)) == pytest.approx([0, 2, 1])


def test_one_sample_has_no_distance():
    with pytest.raises(ValueError, match="S >= 2"):
        mean_pairwise_distance(np.zeros((3, 1, 4)))


def gaussian(mean: np.ndarray, covariance: np.ndarray, rng: np.random.Generator, n: int = 4000) -> np.ndarray:
    """A sample whose own mean and covariance are exactly those asked for."""
    raw = rng.normal(size=(n, len(mean)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False)).T)
    return mean + whitened @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_gaussians_in_closed_form():
    """Commuting covariances: |mu|^2 + sum (sqrt(a) - sqrt(b))^2 over the shared axes."""
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    a, b = np.array([0.5, 1.0, 2.0, 3.0]), np.array([1.5, 0.2, 2.0, 0.1])
    shift = np.array([0.3, -0.2, 0.0, 0.5])
    sets = (gaussian(m, turn @ np.diag(v) @ turn.T, rng) for m, v in ((np.zeros(4), a), (shift, b)))
    assert frechet_distance(*sets) == pytest.approx(shift @ shift + ((a**0.5 - b**0.5) ** 2).sum(), abs=1e-3)


def test_frechet_distance_of_covariances_that_do_not_commute():
    rng = np.random.default_rng(2)
    first, second = (m @ m.T + np.eye(3) for m in rng.normal(size=(2, 3, 3)))
    from scipy.linalg import sqrtm

    expected = np.trace(first + second - 2 * sqrtm(first @ second).real)
    sets = [gaussian(np.zeros(3), c, rng) for c in (first, second)]
    assert frechet_distance(*sets) == pytest.approx(expected, abs=1e-3)


def test_frechet_distance_of_a_set_from_itself_is_zero_also_when_flat():
    flat = np.random.default_rng(3).normal(size=(50, 1)) * np.ones(5)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)


def test_a_move_towards_the_real_clips_is_told_from_none():
    rng = np.random.default_rng(4)
    real = rng.normal(size=(200, 3))
    base = rng.normal(size=(200, 3)) + 1.0
    nearer = frechet_change(base, base - 0.5, real, resamples=100)
    assert nearer.verdict == "falls" and nearer.change.low < nearer.result - nearer.base < nearer.change.high
    assert frechet_change(base, base[::-1], real, resamples=100).verdict == "unchanged"
