"""Mel pictures of clips, as small indexed PNGs."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from codec.audio import mix_to_mono, read_audio, resample
from codec.log_mel import SAMPLE_RATE_HZ, log_mel

DARKEST, BRIGHTEST = -9.0, -2.5  # natural log of the mel magnitude; one scale for all clips, so they compare
_STOPS = ((8, 6, 24), (60, 18, 96), (134, 36, 128), (205, 66, 100), (247, 126, 80), (254, 196, 120), (255, 250, 220))


def mel_picture(path: Path) -> str:
    """Log-mel of an audio file as a PNG data URI: time to the right (50 columns a second), 64 bands upwards."""
    pcm, rate_hz = read_audio(path)
    mel = log_mel(torch.from_numpy(resample(mix_to_mono(pcm), rate_hz, SAMPLE_RATE_HZ)))[0].numpy()
    shades = np.clip((mel - DARKEST) / (BRIGHTEST - DARKEST), 0.0, 1.0) * 255
    return data_uri("image/png", indexed_png(shades[::-1].astype(np.uint8), heat_palette()))


def heat_palette() -> np.ndarray:
    """-> [256, 3] uint8 from near black through red to near white."""
    stops = np.asarray(_STOPS, np.float64)
    at = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], 1).astype(np.uint8)


def indexed_png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """pixels [H, W] uint8, palette [256, 3] uint8 -> PNG bytes. Source: PNG specification, colour type 3."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter type 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
