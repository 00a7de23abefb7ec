"""Damage of known kind and known severity, for teaching and testing the quality model and for the base's material.

Severity 0 changes nothing that can be heard, severity 1 spoils the clip; between them each kind's strength is laid
out so that equal steps of severity are roughly equal steps in decibels or octaves. Loudness is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.log_mel import SAMPLE_RATE_HZ, istft, stft

Spoiler = Callable[[Tensor, Tensor, np.random.Generator], Tensor]  # pcm [B, N], severity [B] -> pcm [B, N]

CLEAN = "clean"
UNSEEN_KINDS = ("crush", "wow")  # kept from every training set: the quality model is tested on them


def degrade(
    pcm: Tensor,
    rng: np.random.Generator,
    kinds: tuple[str, ...] | None = None,
    severity: Tensor | None = None,
) -> tuple[Tensor, list[str], Tensor]:
    """pcm [B, N] -> (damaged pcm [B, N], kind of each clip, severity [B] in [0, 1]).

    Kinds are drawn from `kinds` (by default all but UNSEEN_KINDS), severities uniformly unless given.
    """
    choices = kinds or SEEN_KINDS
    drawn = [choices[int(rng.integers(len(choices)))] for _ in range(len(pcm))]
    strength = torch.as_tensor(rng.random(len(pcm)), dtype=pcm.dtype) if severity is None else severity
    out = pcm.clone()
    for kind in sorted(set(drawn)):
        rows = torch.tensor([index for index, name in enumerate(drawn) if name == kind])
        out[rows] = _as_loud(SPOILERS[kind](pcm[rows], strength[rows], rng), pcm[rows])
    return out, drawn, strength


def mixed_quality(pcm: Tensor, rng: np.random.Generator, share: float = 0.4) -> tuple[Tensor, list[str], Tensor]:
    """Damages `share` of the clips, as the web does: severity 0.25 to 0.9 there, kind "clean" and 0 elsewhere."""
    hit = torch.as_tensor(rng.random(len(pcm)) < share)
    kinds, severity = [CLEAN] * len(pcm), torch.zeros(len(pcm), dtype=pcm.dtype)
    if not bool(hit.any()):
        return pcm.clone(), kinds, severity
    rows = hit.nonzero()[:, 0]
    strength = torch.as_tensor(rng.uniform(0.25, 0.9, len(rows)), dtype=pcm.dtype)
    damaged, drawn, _ = degrade(pcm[rows], rng, severity=strength)
    out = pcm.clone()
    out[rows], severity[rows] = damaged, strength
    for row, kind in zip(rows.tolist(), drawn, strict=True):
        kinds[row] = kind
    return out, kinds, severity


def wrong_tokens(codes: Tensor, rng: np.random.Generator, severity: Tensor, entries: int = 256) -> Tensor:
    """Replaces a share of the frames' codes by random ones: up to half of all frames. codes [B, K, T], severity [B]."""
    hit = torch.as_tensor(rng.random((codes.shape[0], 1, codes.shape[2]))) < 0.5 * severity[:, None, None] ** 1.5
    return torch.where(hit, torch.as_tensor(rng.integers(0, entries, tuple(codes.shape))), codes)


def _noise(pcm: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Broadband noise, white to brownish, 40 dB below the music down to as loud."""
    white = torch.as_tensor(rng.standard_normal(tuple(pcm.shape)), dtype=pcm.dtype)
    spectrum = torch.fft.rfft(white)
    tilt = torch.as_tensor(rng.uniform(0.0, 0.7, (len(pcm), 1)), dtype=pcm.dtype)
    hiss = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[-1] + 1) ** tilt, n=pcm.shape[-1])
    gain = 10 ** (-(40 - 40 * severity[:, None]) / 20)
    return pcm + hiss * _rms(pcm) / _rms(hiss) * gain * (severity[:, None] > 0)


def _time_blur(pcm: Tensor, severity: Tensor, _: np.random.Generator) -> Tensor:
    """Magnitudes smeared along time by a kernel 0 to some 0.5 s wide: attacks wash out."""
    return _blurred(pcm, 0.3 * 40**severity * (severity > 0), axis=-1)


def _frequency_blur(pcm: Tensor, severity: Tensor, _: np.random.Generator) -> Tensor:
    """Magnitudes smeared along frequency, 0 to some 250 Hz: tones turn to noise."""
    return _blurred(pcm, 0.3 * 30**severity * (severity > 0), axis=-2)


def _blurred(pcm: Tensor, width: Tensor, axis: int) -> Tensor:
    """Gaussian blur of STFT magnitudes along one axis (`width` [B] in spectra or bins), phases scrambled in step."""
    spectrum = stft(pcm)
    size = spectrum.abs().transpose(axis, -1)  # [B, other, length]
    side = min(36, size.shape[-1] - 1)  # reflection cannot reach past the other end of a short clip
    reach = torch.arange(-side, side + 1, dtype=pcm.dtype)
    kernel = torch.exp(-0.5 * (reach[None] / width[:, None].clamp_min(1e-3)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    padded = F.pad(size, (side, side), mode="reflect")
    smooth = F.conv1d(padded.transpose(0, 1), kernel[:, None], groups=len(pcm)).transpose(0, 1).transpose(axis, -1)
    return istft(torch.polar(smooth, spectrum.angle()))


def _drop_outs(pcm: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaps of 20 to 160 ms, up to some 45 % of the clip."""
    blocks = pcm.shape[-1] // 320
    mask = torch.ones(len(pcm), blocks, dtype=pcm.dtype)
    for row, strength in enumerate(severity.tolist()):
        for _ in range(round(20 * strength**1.3)):
            start, length = int(rng.integers(blocks)), int(rng.integers(1, 9))
            mask[row, start : start + length] = 0.0
    gate = F.interpolate(mask[:, None], size=pcm.shape[-1], mode="nearest")
    return pcm * F.avg_pool1d(gate, 65, stride=1, padding=32, count_include_pad=False)[:, 0]


def _band_limit(pcm: Tensor, severity: Tensor, _: np.random.Generator) -> Tensor:
    """A steep low-pass, 7 kHz down to 350 Hz."""
    cutoff_hz = 7000.0 * (350.0 / 7000.0) ** severity
    hz = torch.fft.rfftfreq(pcm.shape[-1], 1 / SAMPLE_RATE_HZ)
    gain = 1 / (1 + (hz[None] / cutoff_hz[:, None]) ** 12)
    return torch.fft.irfft(torch.fft.rfft(pcm) * torch.where(severity[:, None] > 0, gain, 1.0), n=pcm.shape[-1])


def _clipping(pcm: Tensor, severity: Tensor, _: np.random.Generator) -> Tensor:
    """Overdriven by 0 to 36 dB over the clip's peak and cut off."""
    drive = 10 ** (36 * severity[:, None] / 20) / pcm.abs().amax(1, keepdim=True).clamp_min(1e-4)
    return (pcm * drive).clamp(-1.0, 1.0) / drive


def _phase_noise(pcm: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """Each cell's phase turned at random, up to half a turn: a metallic, underwater sound."""
    spectrum = stft(pcm)
    turn = (
        torch.as_tensor(rng.standard_normal(tuple(spectrum.shape)), dtype=pcm.dtype) * (severity * 2.2)[:, None, None]
    )
    return istft(spectrum * torch.polar(torch.ones_like(turn), turn))


def _crush(pcm: Tensor, severity: Tensor, _: np.random.Generator) -> Tensor:
    """Coarser and coarser amplitude steps: 10 bits down to 1.5 bits of the clip's peak."""
    peak = pcm.abs().amax(1, keepdim=True).clamp_min(1e-4)
    steps = 2 ** (10 - 8.5 * severity[:, None] - 1)
    return torch.where(severity[:, None] > 0, (pcm / peak * steps).round() / steps * peak, pcm)


def _wow(pcm: Tensor, severity: Tensor, rng: np.random.Generator) -> Tensor:
    """A record off centre with a worn belt: the pitch swings by up to a third, at 1 to 9 Hz."""
    n = pcm.shape[-1]
    t = torch.arange(n, dtype=torch.float64) / SAMPLE_RATE_HZ
    rate_hz = torch.as_tensor(rng.uniform(1.0, 9.0, (len(pcm), 1)))
    phase = torch.as_tensor(rng.uniform(0, 2 * np.pi, (len(pcm), 1)))
    depth = 0.003 * 60 ** severity[:, None].double() * (severity[:, None] > 0)
    swing_s = depth / (2 * np.pi * rate_hz) * torch.sin(2 * np.pi * rate_hz * t[None] + phase)
    at = ((t[None] + swing_s) * SAMPLE_RATE_HZ).clamp(0, n - 2)
    low = at.floor().long()
    part = (at - low).to(pcm.dtype)
    return torch.gather(pcm, 1, low) * (1 - part) + torch.gather(pcm, 1, low + 1) * part


def _rms(pcm: Tensor) -> Tensor:
    return pcm.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-5)


def _as_loud(pcm: Tensor, original: Tensor) -> Tensor:
    gain = _rms(original) / _rms(pcm)
    return pcm * torch.minimum(gain, 0.98 / pcm.abs().amax(-1, keepdim=True).clamp_min(1e-4))


SPOILERS: dict[str, Spoiler] = {
    "noise": _noise,
    "time_blur": _time_blur,
    "frequency_blur": _frequency_blur,
    "drop_outs": _drop_outs,
    "band_limit": _band_limit,
    "clipping": _clipping,
    "phase_noise": _phase_noise,
    "crush": _crush,
    "wow": _wow,
}
SEEN_KINDS = tuple(kind for kind in SPOILERS if kind not in UNSEEN_KINDS)
