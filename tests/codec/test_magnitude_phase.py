"""A phase for magnitudes: steady tones stay steady, and the peaks' start is worth more than none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from codec.log_mel import istft, log_mel, magnitude, stft
from codec.phase import peak_phase, waveform


def _tones(*frequencies_hz: float, seconds: float = 1.0) -> Tensor:
    t = torch.arange(int(16_000 * seconds)) / 16_000
    return sum(0.2 * torch.sin(2 * math.pi * f * t) for f in frequencies_hz)[None]  # type: ignore[index]


def _convergence(pcm: Tensor, wanted: Tensor) -> float:
    """Relative distance of the rebuilt sound's magnitudes to those asked for, edges left out."""
    difference = (magnitude(pcm) - wanted)[..., 4:-4]
    return float(difference.norm() / wanted[..., 4:-4].norm())


@pytest.mark.parametrize("frequency_hz", [220.0, 441.3, 1234.5])
def test_a_steady_tone_comes_back_in_one_pass(frequency_hz: float) -> None:
    wanted = magnitude(_tones(frequency_hz))
    assert _convergence(waveform(wanted, iterations=0), wanted) < 0.1


def _plucked() -> Tensor:
    t = torch.arange(3200) / 16_000
    return (
        0.3 * torch.cat([torch.sin(2 * math.pi * f * t) * torch.exp(-20 * t) for f in (262, 392, 523, 330, 698)])[None]
    )


def test_iterations_bring_plucked_notes_nearer() -> None:
    wanted = magnitude(_plucked())
    errors = [_convergence(waveform(wanted, iterations=n), wanted) for n in (0, 5, 30)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5 * errors[0]


def test_the_fast_algorithm_is_ahead_of_the_plain_one() -> None:
    """Griffin and Lim 1984, from the same start, by its two projections."""
    wanted = magnitude(_plucked())
    plain = torch.polar(wanted, peak_phase(wanted))
    for _ in range(20):
        plain = torch.polar(wanted, stft(istft(plain)).angle())
    assert _convergence(waveform(wanted, iterations=20), wanted) < 0.9 * _convergence(istft(plain), wanted)


def test_the_start_from_peaks_beats_a_start_from_zero_phase() -> None:
    wanted = magnitude(_tones(261.6, 329.6, 392.0))
    start = istft(torch.polar(wanted, peak_phase(wanted)))
    zero = istft(torch.polar(wanted, torch.zeros_like(wanted)))
    assert _convergence(start, wanted) < 0.3 * _convergence(zero, wanted)


def test_the_same_magnitudes_give_the_same_sound_and_the_same_log_mel() -> None:
    pcm = _tones(300.0, 700.0)
    wanted = magnitude(pcm)
    first, second = waveform(wanted), waveform(wanted)
    assert torch.equal(first, second)
    assert float((log_mel(first) - log_mel(pcm))[:, 8:40, 4:-4].abs().mean()) < 0.2


def test_silence_stays_silent_and_finite() -> None:
    pcm = waveform(torch.zeros(2, 641, 10))
    assert pcm.shape == (2, 3200)
    assert float(pcm.abs().max()) < 1e-6
