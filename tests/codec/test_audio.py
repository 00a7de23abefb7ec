"""Audio files in and out, sample rates, channels, loudness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.errors import UserError
from codec.audio import mix_to_mono, normalise_loudness, read_audio, resample, wav_bytes, write_wav


def tone(rate_hz: int, frequency_hz: float, seconds: float = 0.5, amplitude: float = 0.5) -> np.ndarray:
    n = np.arange(int(rate_hz * seconds))
    return (amplitude * np.sin(2 * np.pi * frequency_hz * n / rate_hz)).astype(np.float32)[None]


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg"])
def test_reads_what_listeners_have(tmp_path: Path, name: str) -> None:
    stereo = np.concatenate([tone(22_050, 440), tone(22_050, 880)])
    soundfile.write(tmp_path / name, stereo.T, 22_050)
    pcm, rate_hz = read_audio(tmp_path / name)
    assert rate_hz == 22_050 and pcm.shape == stereo.shape and pcm.dtype == np.float32 and pcm.flags.c_contiguous
    assert np.abs(pcm - stereo).max() < (0.1 if name.endswith("ogg") else 1e-4)


def test_wav_round_trip_is_16_bit_and_clips(tmp_path: Path) -> None:
    pcm = np.array([[0.0, 0.5, -0.5, 1.5, -1.5]], np.float32)
    path = write_wav(tmp_path / "new" / "clip.wav", pcm, 16_000)
    assert soundfile.info(path).subtype == "PCM_16" and soundfile.info(path).samplerate == 16_000
    back, _ = read_audio(path)
    np.testing.assert_allclose(back, np.clip(pcm, -1, 1), atol=1 / 32_000)
    assert path.read_bytes() == wav_bytes(pcm[0], 16_000)  # [N] is one channel
    assert [p.name for p in path.parent.iterdir()] == ["clip.wav"]  # no temporary left


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "clip.wav", tone(16_000, 440), 16_000)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not finite"):
        write_wav(path, np.full((1, 10), np.nan, np.float32), 16_000)
    assert path.read_bytes() == before


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full((10, 1), np.nan), 16_000, subtype="FLOAT")
    whole = write_wav(tmp_path / "whole.wav", tone(16_000, 440), 16_000).read_bytes()
    (tmp_path / "header.wav").write_bytes(whole[:20])
    reasons = {
        "missing.wav": "no such file",
        "text.wav": "Format not recognised",
        "empty.wav": "no samples",
        "nan.wav": "not finite",
        "header.wav": "header.wav",
        ".": "a directory",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as error:
            read_audio(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(24_000, 16_000), (16_000, 48_000), (44_100, 32_000)])
def test_resampling_keeps_a_tone_and_removes_what_would_alias(from_hz: int, to_hz: int) -> None:
    out = resample(tone(from_hz, 1000), from_hz, to_hz)
    assert out.shape == (1, -(-from_hz // 2 * to_hz // from_hz)) and out.dtype == np.float32
    expected = tone(to_hz, 1000)[:, : out.shape[1]]
    middle = slice(400, -400)
    assert np.abs(out[:, middle] - expected[:, middle]).max() < 1e-3
    if to_hz < from_hz:
        above = resample(tone(from_hz, 0.95 * from_hz / 2), from_hz, to_hz)
        assert np.abs(above[:, middle]).max() < 1e-3


def test_resampling_batches_and_the_identity() -> None:
    pcm = np.random.default_rng(0).standard_normal((2, 3, 480)).astype(np.float32)
    assert resample(pcm, 16_000, 16_000) is pcm
    np.testing.assert_allclose(resample(pcm, 24_000, 16_000)[1, 2], resample(pcm[1, 2], 24_000, 16_000), atol=1e-6)


def test_mono_is_the_mean() -> None:
    pcm = np.stack([np.ones((2, 4)), np.zeros((2, 4))]).astype(np.float32)
    pcm[0, 1] = 0
    np.testing.assert_array_equal(mix_to_mono(pcm), np.stack([np.full((1, 4), 0.5), np.zeros((1, 4))]))


def test_loudness() -> None:
    quiet, loud = tone(16_000, 440, amplitude=0.01), tone(16_000, 440, amplitude=0.9)
    for pcm in (quiet, loud):
        level = normalise_loudness(pcm, target_dbfs=-20)
        assert np.sqrt(np.mean(level**2)) == pytest.approx(0.1, rel=1e-3)
    batch = normalise_loudness(np.stack([quiet, loud]))
    np.testing.assert_allclose(batch[0], normalise_loudness(quiet), rtol=1e-6)  # each clip by itself
    click = np.zeros((1, 1000), np.float32)
    click[0, 5] = 0.5
    assert np.abs(normalise_loudness(click)).max() == pytest.approx(0.99)  # the peak limits the gain
    silence = np.full((1, 100), 1e-7, np.float32)
    np.testing.assert_array_equal(normalise_loudness(silence), silence)
