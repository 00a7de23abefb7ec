"""Sound of foreign files: FLAC is kept as it is, anything else is kept and transcoded to FLAC beside it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from feedback.battle import Unusable
from feedback.errors import Refused
from feedback.flac import MAX_SECONDS, FlacFacts, read_flac, sha256, write_flac

_SUFFIXES = {"WAV": ".wav", "WAVEX": ".wav", "MP3": ".mp3", "MPEG": ".mp3", "OGG": ".ogg", "AIFF": ".aiff"}
_SHORT_S, _SHORT = 0.5, 0.02  # a file may fall short of its announced length by so much
_UNKNOWN_LENGTH = 0xFFFFFFFF  # what programs write that stream WAV to a pipe


@dataclass(frozen=True)
class Sound:
    """A FLAC file, and the name by content of the file that it was made from ("": it came as FLAC)."""

    flac: bytes
    facts: FlacFacts
    original: str


def read_sound(data: bytes, announced_s: float | None) -> Sound:
    """All of a WAV, FLAC, OGG, AIFF or MP3 file.

    announced_s: how long it should be; a much shorter one counts as truncated, which some formats do not show by
    themselves. Raises Unusable.
    """
    if data[:4] == b"fLaC":
        sound = Sound(data, _flac_facts(data), "")
    else:
        pcm, rate_hz, suffix = _decode(data)
        flac = _encode(pcm, rate_hz)
        sound = Sound(flac, _flac_facts(flac), sha256(data) + suffix)
    if announced_s is not None and sound.facts.seconds < announced_s - max(_SHORT_S, _SHORT * announced_s):
        raise Unusable(f"truncated audio: {sound.facts.seconds:.4g} s of {announced_s:.4g} s")
    return sound


def _decode(data: bytes) -> tuple[np.ndarray, int, str]:
    """-> pcm [C, N], rate in Hz, suffix."""
    if _is_cut_wav(data):
        raise Unusable("truncated audio: shorter than its own header says")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if not 0 < file.frames / file.samplerate <= MAX_SECONDS:
                raise Unusable(f"unknown audio: {file.frames / file.samplerate:.4g} s, allowed up to {MAX_SECONDS:g} s")
            samples, rate_hz, suffix = file.read(dtype="float32", always_2d=True), file.samplerate, file.format
            if len(samples) < file.frames:
                raise Unusable(f"truncated audio: {len(samples)} of {file.frames} samples")
    except soundfile.SoundFileError:
        raise Unusable("damaged audio: cannot be decoded") from None
    if suffix not in _SUFFIXES:
        raise Unusable(f"unknown audio: {suffix}, allowed WAV, FLAC, OGG, AIFF or MP3")
    return samples.T, int(rate_hz), _SUFFIXES[suffix]


def _encode(pcm: np.ndarray, rate_hz: int) -> bytes:
    try:
        return write_flac(pcm, rate_hz)
    except (ValueError, soundfile.SoundFileError) as error:
        raise Unusable(f"damaged audio: {str(error).splitlines()[0]}") from None


def _flac_facts(data: bytes) -> FlacFacts:
    try:
        return read_flac(data)
    except Refused as refusal:
        raise Unusable(f"damaged audio: {refusal.problem}") from None


def _is_cut_wav(data: bytes) -> bool:
    """Decoders take what there is of a WAV file without a word."""
    if data[:4] != b"RIFF":
        return False
    length = int.from_bytes(data[4:8], "little")
    return length != _UNKNOWN_LENGTH and length + 8 > len(data)
