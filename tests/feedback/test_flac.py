from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from feedback.errors import Reason, Refused
from feedback.flac import FlacFacts, read_flac, sha256, write_flac

NOISE = 0.2 * np.random.default_rng(0).normal(size=(2, 12_000)).astype(np.float32)


def refusal_of(data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        read_flac(data)
    assert caught.value.reason is Reason.INVALID
    return str(caught.value)


def test_what_is_written_is_read() -> None:
    data = write_flac(NOISE, 16_000)
    assert read_flac(data) == FlacFacts(16_000, 2, 0.75)
    back, _ = soundfile.read(io.BytesIO(data), always_2d=True)
    assert np.abs(back.T - np.clip(NOISE, -1, 1)).max() < 2 / 32_768


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_samples_of_every_width_are_checked(subtype: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE.T, 44_100, format="FLAC", subtype=subtype)
    assert read_flac(buffer.getvalue()).channels == 2
    other = bytearray(buffer.getvalue())
    other[30] ^= 1  # of the MD5 of the samples
    assert "not those that were written" in refusal_of(bytes(other))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(share: float) -> None:
    data = write_flac(NOISE, 16_000)
    assert "FLAC" in refusal_of(data[: int(share * len(data))])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_flipped_bit_is_found(share: float) -> None:
    data = bytearray(write_flac(NOISE, 16_000))
    data[int(share * len(data))] ^= 4
    assert "damaged" in refusal_of(bytes(data))


def test_other_formats_are_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE.T, 16_000, format="WAV")
    assert "not a FLAC file" in refusal_of(buffer.getvalue())
    assert "not a FLAC file" in refusal_of(b"")
    assert "FLAC" in refusal_of(b"fLaC")


def test_hours_of_silence_are_refused_before_they_are_unpacked() -> None:
    data = bytearray(write_flac(np.zeros((1, 16_000)), 16_000))
    data[21:26] = bytes([data[21] & 0xF0 | 0xF, 255, 255, 255, 255])  # total samples: 2^36 - 1
    assert "allowed up to 1200 s" in refusal_of(bytes(data))


def test_the_name_is_the_hash_of_the_content() -> None:
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
