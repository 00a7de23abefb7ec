"""Audio files, sample rates, channels and loudness. PCM is float32 numpy [C, N], full scale at -1 and 1."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from cluster.errors import UserError

_SILENCE_RMS = 1e-5  # -100 dBFS: below it there is nothing to bring to a level


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """A WAV, FLAC, OGG or MP3 file -> (pcm [C, N], sample rate in Hz). Raises UserError naming the file."""
    try:
        samples, rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"audio file: got {path} ({_reason(path, error)}), allowed: WAV, FLAC, OGG or MP3") from error
    if samples.shape[0] == 0:
        raise UserError(f"audio file: got {path} (no samples), allowed: at least one")
    if not np.isfinite(samples).all():
        raise UserError(f"audio file: got {path} (samples that are not finite), allowed: numbers in [-1, 1]")
    return np.ascontiguousarray(samples.T), int(rate_hz)


def write_wav(path: str | Path, pcm: np.ndarray, sample_rate_hz: int) -> Path:
    """pcm [C, N] or [N] -> a 16 bit WAV file, which appears whole or not at all. Samples beyond full scale are clipped.

    Raises ValueError when a sample is not finite.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(wav_bytes(pcm, sample_rate_hz))
    temporary.replace(path)
    return path


def wav_bytes(pcm: np.ndarray, sample_rate_hz: int) -> bytes:
    """pcm [C, N] or [N] -> the bytes of a 16 bit WAV file, to be served or embedded."""
    pcm = np.atleast_2d(np.asarray(pcm, dtype=np.float32))
    if not np.isfinite(pcm).all():
        raise ValueError("pcm holds samples that are not finite")
    steps = np.round(np.clip(pcm, -1.0, 1.0) * 32767.0).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps.T, sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def resample(pcm: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """[..., N] -> [..., ceil(N * to / from)] by a polyphase Kaiser filter (linear phase, about 90 dB stop band)."""
    if from_hz == to_hz:
        return pcm
    divisor = math.gcd(int(from_hz), int(to_hz))
    return resample_poly(pcm, to_hz // divisor, from_hz // divisor, axis=-1, window=("kaiser", 9.0)).astype(pcm.dtype)


def mix_to_mono(pcm: np.ndarray) -> np.ndarray:
    """[..., C, N] -> [..., 1, N], the mean of the channels."""
    return pcm.mean(axis=-2, keepdims=True, dtype=np.float32)


def normalise_loudness(pcm: np.ndarray, target_dbfs: float = -20.0, peak: float = 0.99) -> np.ndarray:
    """[..., C, N] at one RMS level, over all channels of a clip; 0 dBFS is a full-scale square wave.

    RMS without frequency weighting or gating: enough to make clips of one kind comparable, not a broadcast measure
    (ITU-R BS.1770 would be). A gain that would exceed `peak` is reduced to it, rather than clipping. Clips below
    -100 dBFS are returned as they are.
    """
    rms = np.sqrt(np.mean(np.square(pcm, dtype=np.float64), axis=(-2, -1), keepdims=True))
    loudest = np.abs(pcm).max(axis=(-2, -1), keepdims=True).astype(np.float64)
    silent = rms < _SILENCE_RMS
    gain = 10.0 ** (target_dbfs / 20.0) / np.where(silent, 1.0, rms)
    gain = np.minimum(gain, peak / np.where(silent, 1.0, loudest))
    return (pcm * np.where(silent, 1.0, gain)).astype(np.float32)


def _reason(path: str | Path, error: Exception) -> str:
    if not Path(path).exists():
        return "no such file"
    return "a directory" if Path(path).is_dir() else str(error).strip().rstrip(".").splitlines()[-1]
