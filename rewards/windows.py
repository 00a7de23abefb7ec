"""Clips longer than a model's window are cut into windows whose scores are averaged.

Source: MusicRL section 3.3 scores 30 s by three segments of its 10 s text-audio model and averages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from codec.log_mel import SPECTRA_PER_S

WINDOW_SPECTRA = 4 * SPECTRA_PER_S


def window_starts(spectra: int, window: int = WINDOW_SPECTRA) -> list[int]:
    """Starts that cover a clip with as few windows as will do; the last one ends with the clip."""
    if spectra <= window:
        return [0]
    count = -(-spectra // window)
    return [round(i * (spectra - window) / (count - 1)) for i in range(count)]


def mean_over_windows(log_mel: np.ndarray, read: Callable[[Tensor], Tensor], batch: int = 64) -> np.ndarray:
    """Applies `read` ([b, 64, f] -> [b, ...]) window by window, at most `batch` clips at once, and averages.

    log_mel [B, 64, F], read-only views allowed -> [B, ...] float32. A clip with a non-finite value comes out as NaN.
    """
    starts = window_starts(log_mel.shape[-1])
    out = []
    with torch.inference_mode():
        for first in range(0, len(log_mel), batch):
            clips = torch.tensor(log_mel[first : first + batch], dtype=torch.float32)  # copies: views may be read-only
            finite = clips.flatten(1).isfinite().all(1)
            clips = torch.where(finite[:, None, None], clips, torch.zeros_like(clips))
            scores = torch.stack([read(clips[..., s : s + WINDOW_SPECTRA]) for s in starts]).mean(0)
            scores[~finite] = float("nan")
            out.append(scores.float().numpy())
    return np.concatenate(out)
