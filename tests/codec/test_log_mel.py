"""The spectral frontend: shapes, scale, inverse, constants that serve inference and training alike."""

from __future__ import annotations

import math

import torch

from codec import log_mel


def test_two_spectra_a_codec_frame() -> None:
    assert log_mel.log_mel(torch.zeros(2, 64_000)).shape == (2, 64, 200)


def test_a_full_scale_sinusoid_has_magnitude_one_half_at_its_bin() -> None:
    time_s = torch.arange(16_000) / log_mel.SAMPLE_RATE_HZ
    spectrum = log_mel.magnitude(torch.sin(2 * math.pi * 1000.0 * time_s)[None])  # bin 80 of 12.5 Hz
    torch.testing.assert_close(spectrum[0, 80, 10:40], torch.full((30,), 0.5), atol=1e-4, rtol=0)


def test_the_inverse_gives_the_sound_back_but_for_its_last_window() -> None:
    pcm = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    rebuilt = log_mel.istft(log_mel.stft(pcm))
    torch.testing.assert_close(rebuilt[:, :-1280], pcm[:, :-1280], atol=1e-5, rtol=0)


def test_constants_first_asked_for_in_inference_mode_serve_training() -> None:
    log_mel.mel_matrix.cache_clear()
    log_mel._window.cache_clear()
    with torch.inference_mode():
        log_mel.log_mel(torch.zeros(1, 6_400))
    pcm = torch.randn(1, 6_400, requires_grad=True)
    log_mel.log_mel(pcm).sum().backward()
    assert pcm.grad is not None
