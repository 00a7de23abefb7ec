"""Arrangements to sound: batches of clips in one MIDI file, FluidSynth at 48 kHz, decimated to 16 kHz."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from cluster.errors import UserError
from codec.log_mel import SAMPLE_RATE_HZ
from world.arrangement import CLIP_S, Arrangement

RENDER_RATE_HZ = 48_000  # rendering at 16 kHz would alias the soundfont's samples
SLOT_S = 6.0  # a clip and the silence in which it dies away
LEAD_IN_S = 0.02
TICKS_PER_S = 960
CLIP_SAMPLES = int(CLIP_S * SAMPLE_RATE_HZ)
TARGET_RMS = 0.1
PEAK = 0.95
SOUNDFONTS = (
    "/usr/share/sounds/sf3/FluidR3Mono_GM.sf3",
    "/usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3",
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
)


def find_soundfont() -> Path:
    """The first General MIDI soundfont installed. Raises UserError where it or the synthesiser is missing."""
    if shutil.which("fluidsynth") is None:
        raise UserError("fluidsynth: got no such command, install the packages fluidsynth, fluidr3mono-gm-soundfont")
    for path in map(Path, SOUNDFONTS):
        if path.exists():
            return path
    raise UserError(f"soundfont: got none, allowed one of {', '.join(SOUNDFONTS)}")


def render(arrangements: list[Arrangement], soundfont: Path) -> np.ndarray:
    """-> int16 [len(arrangements), 64000], 16 kHz mono, each clip at the same loudness."""
    with tempfile.TemporaryDirectory() as folder:
        midi, raw = Path(folder) / "batch.mid", Path(folder) / "batch.raw"
        midi.write_bytes(_midi_file(arrangements))
        command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.4", "-r", str(RENDER_RATE_HZ)]
        command += ["-T", "raw", "-O", "float", "-E", "little", "-F", str(raw), str(soundfont), str(midi)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stereo = np.fromfile(raw, dtype="<f4")
    mono = stereo.reshape(-1, 2).mean(1)
    return np.stack([_clip(mono, slot) for slot in range(len(arrangements))])


def _clip(mono: np.ndarray, slot: int) -> np.ndarray:
    first = int(slot * SLOT_S * RENDER_RATE_HZ)
    part = mono[first : first + int(CLIP_S * RENDER_RATE_HZ)]
    part = np.pad(part, (0, int(CLIP_S * RENDER_RATE_HZ) - len(part)))
    return to_int16(normalise(resample_poly(part, 1, RENDER_RATE_HZ // SAMPLE_RATE_HZ)[:CLIP_SAMPLES]))


def normalise(pcm: np.ndarray) -> np.ndarray:
    """Same RMS for every clip (instruments differ five times), peaks kept below full scale, no click at the cut."""
    gain = TARGET_RMS / max(float(np.sqrt(np.mean(pcm**2))), 1e-5)
    gain = min(gain, PEAK / max(float(np.abs(pcm).max()), 1e-5))
    fade = np.ones(len(pcm))
    fade[-320:] = np.linspace(1.0, 0.0, 320)
    return pcm * gain * fade


def to_int16(pcm: np.ndarray) -> np.ndarray:
    return np.round(np.clip(pcm, -1, 1) * 32767).astype(np.int16)


def _midi_file(arrangements: list[Arrangement]) -> bytes:
    """Standard MIDI file, format 0, half-second quarters of 480 ticks."""
    events = [event for slot, arrangement in enumerate(arrangements) for event in _events(slot, arrangement)]
    events.append((_tick(len(arrangements) * SLOT_S), 9, bytes([0xFF, 0x2F, 0x00])))
    track, now = b"", 0
    parts = [bytes([0x00, 0xFF, 0x51, 0x03]) + (500_000).to_bytes(3, "big")]
    for tick, _, data in sorted(events, key=lambda event: event[:2]):
        parts.append(_variable_length(tick - now) + data)
        now = tick
    track = b"".join(parts)
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS_PER_S // 2) + b"MTrk" + struct.pack(">I", len(track)) + track


def _events(slot: int, arrangement: Arrangement) -> list[tuple[int, int, bytes]]:
    """(tick, rank within the tick, message): silence and programs first, then ends of notes, then beginnings."""
    start = slot * SLOT_S
    events = [(_tick(start), 0, bytes([0xC0 | channel, program])) for channel, program in arrangement.programs.items()]
    # The bank's accompaniment is quieter than its lead instruments; the lead must stay in front.
    for channel, volume in ((0, 112), (1, 82), (2, 96), (9, 96)):
        events.append((_tick(start), 0, bytes([0xB0 | channel, 7, volume])))
        events.append((_tick(start + CLIP_S + 0.1), 0, bytes([0xB0 | channel, 120, 0])))  # all sound off
    for note in arrangement.notes:
        on = start + LEAD_IN_S + note.start_s
        off = min(on + note.length_s, start + CLIP_S + 0.05)
        events.append((_tick(on), 2, bytes([0x90 | note.channel, note.pitch, note.velocity])))
        events.append((_tick(off), 1, bytes([0x80 | note.channel, note.pitch, 0])))
    return events


def _tick(seconds: float) -> int:
    return round(seconds * TICKS_PER_S)


def _variable_length(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append((value & 0x7F) | 0x80)
    return bytes(reversed(out))
