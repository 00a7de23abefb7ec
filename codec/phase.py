"""A waveform for a magnitude spectrogram: a first phase from spectral peaks, then fast Griffin-Lim. No randomness.

Source: Beauregard, Harish, Wyse 2015, "Single pass spectrogram inversion" (the start); Perraudin, Balazs,
Sondergaard 2013, "A fast Griffin-Lim algorithm" (the iterations; momentum 0.99 there).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codec.log_mel import FFT_SIZE, HOP, istft, stft

MOMENTUM = 0.99
DEFAULT_ITERATIONS = 10


def waveform(magnitude: Tensor, iterations: int = DEFAULT_ITERATIONS) -> Tensor:
    """magnitude [B, 641, F] -> pcm [B, 320 * F]."""
    spectrum = torch.polar(magnitude, peak_phase(magnitude))
    before = spectrum
    for _ in range(iterations):
        consistent = stft(istft(spectrum))
        ahead = consistent + MOMENTUM * (consistent - before)
        before = consistent
        spectrum = ahead * (magnitude / ahead.abs().clamp_min(1e-9))
    return istft(spectrum)


def peak_phase(magnitude: Tensor) -> Tensor:
    """Phases that let every spectral peak run on as one sinusoid; bins beside a peak follow it. [B, 641, F] -> same.

    The peak's frequency comes from a parabola through its three bins; its phase advances by 2 pi f HOP a frame.
    With frames centred on their samples, neighbouring bins of a peak alternate in sign.
    """
    left, middle, right = magnitude[:, :-2], magnitude[:, 1:-1], magnitude[:, 2:]
    offset = 0.5 * (left - right) / (left - 2 * middle + right - 1e-9)
    is_peak = (middle > left) & (middle >= right)
    bins = torch.arange(1, magnitude.shape[1] - 1, dtype=magnitude.dtype)[None, :, None]
    frequency = _pad(torch.where(is_peak, bins + offset.clamp(-0.5, 0.5), torch.zeros_like(middle)))
    owner = _nearest_peak(_pad(is_peak.to(magnitude.dtype)) > 0, magnitude)
    step = torch.gather(frequency, 1, owner) * (2 * math.pi * HOP / FFT_SIZE)
    at = torch.arange(magnitude.shape[1])[None, :, None]
    phase = torch.zeros_like(magnitude)
    current = torch.zeros_like(magnitude[..., 0])
    for frame in range(magnitude.shape[-1]):
        # A bin takes the phase that its peak has accumulated, whichever bin that peak was in before.
        current = torch.gather(current, 1, owner[..., frame]) + step[..., frame]
        current = torch.remainder(current, 2 * math.pi)
        phase[..., frame] = current
    alternate = ((at - owner) % 2).to(magnitude.dtype) * math.pi
    return phase + alternate


def _pad(inner: Tensor) -> Tensor:
    """[B, 639, F] -> [B, 641, F] with zeros at both edges."""
    return torch.nn.functional.pad(inner, (0, 0, 1, 1))


def _nearest_peak(is_peak: Tensor, magnitude: Tensor) -> Tensor:
    """For every bin the index of the peak it belongs to (the nearer one). [B, 641, F] -> int64 [B, 641, F]."""
    count = magnitude.shape[1]
    at = torch.arange(count)[None, :, None].expand_as(is_peak)
    below = torch.where(is_peak, at, -count * 2).cummax(1).values
    above = torch.where(is_peak, at, count * 3).flip(1).cummin(1).values.flip(1)
    owner = torch.where((at - below) <= (above - at), below, above)
    return torch.where((owner < 0) | (owner >= count), at, owner)
