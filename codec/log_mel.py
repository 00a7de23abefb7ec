"""The spectral frontend that the world's codec, reward models and judges share.

16 kHz mono, STFT of 1280 samples every 320 (50 spectra a second), Hann window, centred with reflection,
64 HTK mel bands from 30 Hz to 8 kHz, natural logarithm of the band *magnitude* (not power), floored.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
FFT_SIZE = 1280
HOP = 320
SPECTRA_PER_S = SAMPLE_RATE_HZ // HOP  # 50
BINS = FFT_SIZE // 2 + 1  # 641
MELS = 64
LOG_FLOOR = 1e-4  # -80 dB below a full-scale sinusoid's order of magnitude


def stft(pcm: Tensor) -> Tensor:
    """Complex STFT of mono PCM, scaled so that a full-scale sinusoid has a peak magnitude near 0.5.

    pcm [B, N] float in [-1, 1] at 16 kHz -> complex [B, 641, F] with F = N // 320 (the last centred frame is
    dropped, so that F is exactly two spectra per 25 Hz codec frame).
    """
    spectrum = torch.stft(pcm, FFT_SIZE, HOP, window=_window(pcm.device), center=True, return_complex=True)
    return spectrum[..., : pcm.shape[-1] // HOP] * (2.0 / FFT_SIZE)


def istft(spectrum: Tensor) -> Tensor:
    """Inverse of `stft` by least squares. complex [B, 641, F] -> pcm [B, 320 * F]."""
    padded = torch.cat([spectrum, spectrum[..., -1:]], dim=-1) * (FFT_SIZE / 2.0)
    frames = spectrum.shape[-1]
    return torch.istft(padded, FFT_SIZE, HOP, window=_window(spectrum.device), center=True, length=HOP * frames)


def magnitude(pcm: Tensor) -> Tensor:
    """[B, N] -> [B, 641, F], the modulus of `stft`."""
    return stft(pcm).abs()


def log_mel_from_magnitude(spectrum: Tensor) -> Tensor:
    """[B, 641, F] magnitudes -> [B, 64, F] natural-log mel magnitudes."""
    bands = torch.matmul(mel_matrix(spectrum.device), spectrum)
    return bands.clamp_min(LOG_FLOOR).log()


def log_mel(pcm: Tensor) -> Tensor:
    """[B, N] at 16 kHz -> [B, 64, F], F = N // 320."""
    return log_mel_from_magnitude(magnitude(pcm))


# Cached constants are made outside inference mode, whoever asks first: an inference tensor would refuse to be part of
# a training graph later.
@functools.lru_cache(maxsize=4)
@torch.inference_mode(False)
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(FFT_SIZE, device=device)


@functools.lru_cache(maxsize=4)
@torch.inference_mode(False)
def mel_matrix(device: torch.device) -> Tensor:
    """Triangular HTK mel filters, each summing to one. -> [64, 641]."""
    low, high = _hz_to_mel(torch.tensor(30.0)), _hz_to_mel(torch.tensor(SAMPLE_RATE_HZ / 2.0))
    edges_hz = _mel_to_hz(torch.linspace(float(low), float(high), MELS + 2))
    bins_hz = torch.linspace(0.0, SAMPLE_RATE_HZ / 2.0, BINS)
    up = (bins_hz[None] - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    down = (edges_hz[2:, None] - bins_hz[None]) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    filters = torch.minimum(up, down).clamp_min(0.0)
    return (filters / filters.sum(1, keepdim=True).clamp_min(1e-8)).to(device)


def _hz_to_mel(hz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
