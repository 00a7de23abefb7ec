"""FLAC files: written, and read to the last sample before they are believed.

A FLAC stream carries the MD5 of its samples; a file that decodes to other samples, or to fewer than it promises, is
refused. Source: RFC 9639, section 8.2.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import soundfile

from feedback.errors import Reason, Refused

MAX_SECONDS = 1200.0  # a small file may unpack to hours of silence
_BLOCK = 1 << 18
# STREAMINFO follows the marker (4 bytes) and its own header (4); its last 16 bytes are the MD5 of the samples
_MD5 = slice(26, 42)
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}


@dataclass(frozen=True)
class FlacFacts:
    """What a whole FLAC file holds."""

    sample_rate_hz: int
    channels: int
    seconds: float


def sha256(data: bytes) -> str:
    """The name of a file by its content, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_flac(pcm: np.ndarray, sample_rate_hz: int) -> bytes:
    """pcm [C, N] or [N] float in [-1, 1] -> a 16 bit FLAC file; beyond full scale is clipped.

    Raises ValueError when a sample is not finite.
    """
    pcm = np.atleast_2d(np.asarray(pcm, dtype=np.float32))
    if not np.isfinite(pcm).all():
        raise ValueError("pcm holds samples that are not finite")
    steps = np.round(np.clip(pcm, -1.0, 1.0) * 32767.0).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps.T, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def read_flac(data: bytes) -> FlacFacts:
    """Decodes all of it. Raises Refused (invalid): another format, truncated, damaged, empty or too long."""
    if data[:4] != b"fLaC":
        raise _refused("not a FLAC file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return _read_whole(file, data[_MD5])
    except soundfile.SoundFileError:
        raise _refused("a truncated or damaged FLAC file") from None


def _read_whole(file: soundfile.SoundFile, md5: bytes) -> FlacFacts:
    seconds = file.frames / file.samplerate
    if not 0 < seconds <= MAX_SECONDS:
        raise _refused(f"a FLAC file of {seconds:.6g} s, allowed up to {MAX_SECONDS:g} s")
    read, digest, width = 0, hashlib.md5(usedforsecurity=False), _SAMPLE_BYTES.get(file.subtype, 0)
    for block in file.blocks(_BLOCK, dtype="int32", always_2d=True):
        read += len(block)
        digest.update(_as_stored(block, width))
    if read != file.frames:
        raise _refused(f"a truncated FLAC file, {read} of {file.frames} samples")
    if any(md5) and width and digest.digest() != md5:
        raise _refused("a damaged FLAC file, its samples are not those that were written")
    return FlacFacts(int(file.samplerate), int(file.channels), seconds)


def _as_stored(block: np.ndarray, width: int) -> bytes:
    """[N, C] left-justified 32 bit samples -> the little-endian bytes of `width` that the MD5 is taken of."""
    if not width:
        return b""
    return block.astype("<i4").view(np.uint8).reshape(len(block), -1, 4)[..., 4 - width :].tobytes()


def _refused(problem: str) -> Refused:
    return Refused(Reason.INVALID, "audio", f"got {problem}")
