"""Clips as foreign models want them: mono at their rate, in windows of their length. All choices are deterministic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codec.audio import mix_to_mono, resample
from rewards.port import ClipBatch
from rewards.windows import window_starts


def mono_at(clips: ClipBatch, rate_hz: int) -> np.ndarray:
    """-> [B, N] float32 at `rate_hz`, mean of the channels."""
    assert clips.pcm is not None, "models of the field read pcm"
    return np.ascontiguousarray(resample(mix_to_mono(clips.pcm)[:, 0], clips.sample_rate_hz, rate_hz))


def covering_windows(samples: np.ndarray, window: int) -> np.ndarray:
    """[B, N] -> [B, W, n], n = min(N, window): as few windows as cover the clip, the last one ending with it."""
    starts = window_starts(samples.shape[1], window)
    return np.stack([samples[:, start : start + window] for start in starts], axis=1)


def scores_of_finite(clips: ClipBatch, read: Callable[[ClipBatch], np.ndarray]) -> np.ndarray:
    """`read` of the clips whose sound is finite; rows of the others are NaN. -> [B, ...] float32."""
    assert clips.pcm is not None, "models of the field read pcm"
    whole = np.isfinite(clips.pcm).all((1, 2))
    if whole.all():
        return read(clips).astype(np.float32)
    if not whole.any():
        return np.full(len(clips), np.nan, np.float32)
    some = read(clips.take(np.flatnonzero(whole)))
    every = np.full((len(clips), *some.shape[1:]), np.nan, np.float32)
    every[whole] = some
    return every
