"""From audio files with captions to token sequences: what supervised fine-tuning learns from.

Every file is brought to the codec's rate and channels and cut into sequences of one length, the last one ending with
the file. What cannot be used is listed with its file, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cluster.errors import UserError
from cluster.storage import write_atomic
from codec.audio import mix_to_mono, read_audio, resample
from codec.audio_list import AudioFile, AudioList, Problem
from codec.port import Codec
from learner.supervised import Material
from rewards.windows import window_starts

ENCODED_AT_ONCE = 8
LEAST_RATE = 0.5  # of the codec's sample rate: below it, half of what the codec could say is missing in the sound
FEWEST_FILES_TO_HOLD_OUT = 10  # fewer than these: the ends of files are held out, not whole files

Encoder = Callable[[Tensor], Tensor]  # pcm [B, C, N] -> codes [B, K, T], all streams of the policy


@dataclass(frozen=True)
class Sequences:
    """Tokens of all files: codes [n, K, T], which file each comes from, and what was left out."""

    codes: np.ndarray
    file: np.ndarray  # [n] int64, index into `files`
    files: tuple[AudioFile, ...]
    problems: tuple[Problem, ...]

    def material(self, rows: np.ndarray) -> Material:
        return Material(self.codes[rows], [self.files[file].caption for file in self.file[rows]])


def encode_files(
    listed: AudioList, codec: Codec, encode: Encoder, seconds: float, frames: int, say: Callable[[str], None]
) -> Sequences:
    """Reads, cuts and encodes every file. Raises UserError where none can be used."""
    problems = list(listed.problems)
    files: list[AudioFile] = []
    codes, owner = [], []
    for done, file in enumerate(listed.files, start=1):
        found, reason = _encode_file(file, codec, encode, seconds, frames)
        if found is None:
            problems.append(Problem(file.path, reason))
            continue
        codes.append(found)
        owner += [len(files)] * len(found)
        files.append(file)
        if done % 50 == 0 or done == len(listed.files):
            say(f"data: {done} of {len(listed.files)} files, {len(owner)} sequences")
    if not files:
        first = "; ".join(str(problem) for problem in problems[:2])
        raise UserError(f"data: got no usable file ({first}), allowed audio with captions")
    return Sequences(np.concatenate(codes), np.array(owner), tuple(files), tuple(problems))


def held_out(sequences: Sequences, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """-> rows to learn from, rows to validate on. Whole files where there are ten or more, else the end of each file.

    Raises UserError where fewer than two sequences leave nothing to hold out.
    """
    count = len(sequences.files)
    if count >= FEWEST_FILES_TO_HOLD_OUT:
        order = np.random.default_rng((seed, 61)).permutation(count)
        out = np.isin(sequences.file, order[: max(1, round(share * count))])
    else:
        out = np.zeros(len(sequences.file), bool)
        for file in range(count):
            rows = np.flatnonzero(sequences.file == file)
            if len(rows) > 1:
                out[rows[-max(1, round(share * len(rows))) :]] = True
        if not out.any():
            out[-1] = True
    if out.all() or len(out) < 2:
        raise UserError(f"data: got {len(out)} sequence, allowed two or more (one is held out; seconds= cuts shorter)")
    return np.flatnonzero(~out), np.flatnonzero(out)


def saved_sequences(path: Path, key: str, make: Callable[[], Sequences]) -> Sequences:
    """Those at `path` if they were made for `key`, else `make()`, kept there."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                facts = json.loads(str(stored["facts"]))
                files = tuple(AudioFile(Path(place), caption) for place, caption in facts["files"])
                problems = tuple(Problem(Path(place), reason) for place, reason in facts["problems"])
                return Sequences(stored["codes"], stored["owner"], files, problems)
    made = make()
    facts = {
        "files": [(str(file.path), file.caption) for file in made.files],
        "problems": [(str(problem.path), problem.reason) for problem in made.problems],
    }
    arrays = {"key": np.array(key), "facts": np.array(json.dumps(facts)), "codes": made.codes, "owner": made.file}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomic(path, write)
    return made


def content_key(listed: AudioList, *more: object) -> str:
    """What the sequences depend on: files, their sizes and times, captions, and whatever else is given."""
    stats = [(str(f.path), f.caption, f.path.stat().st_size, f.path.stat().st_mtime_ns) for f in listed.files]
    gone = [str(problem) for problem in listed.problems]
    return hashlib.sha256(json.dumps([stats, gone, [str(part) for part in more]]).encode()).hexdigest()[:16]


def _encode_file(
    file: AudioFile, codec: Codec, encode: Encoder, seconds: float, frames: int
) -> tuple[np.ndarray | None, str]:
    """-> codes [n, K, T], or None and why not."""
    if not file.caption:
        return None, "no caption (a captions file, NAME.json or NAME.txt beside it)"
    try:
        pcm, rate_hz = read_audio(file.path)
    except UserError as error:
        return None, str(error)
    if rate_hz < LEAST_RATE * codec.sample_rate_hz:
        return None, f"{rate_hz} Hz, allowed at least {LEAST_RATE * codec.sample_rate_hz:.0f} Hz for this codec"
    sound = _channels(resample(pcm, rate_hz, codec.sample_rate_hz), codec.channels)
    length = round(seconds * codec.sample_rate_hz)
    if sound.shape[1] < length:
        return None, f"{sound.shape[1] / codec.sample_rate_hz:.1f} s, shorter than a sequence of {seconds:g} s"
    cuts = np.stack([sound[:, start : start + length] for start in window_starts(sound.shape[1], length)])
    found = []
    for start in range(0, len(cuts), ENCODED_AT_ONCE):
        with torch.inference_mode():
            found.append(encode(torch.from_numpy(cuts[start : start + ENCODED_AT_ONCE]))[..., :frames].numpy())
    return np.concatenate(found).astype(np.uint16), ""


def _channels(pcm: np.ndarray, channels: int) -> np.ndarray:
    """[C, N] -> [channels, N]: the mean for mono, twice the mean for stereo of anything but stereo."""
    if pcm.shape[0] == channels:
        return pcm
    return np.repeat(mix_to_mono(pcm), channels, axis=0)


def encoder_of(codec: Codec, kinds: Sequence[str], semantic_dir: str) -> Encoder:
    """All streams of a policy: the codec's, below a semantic stream where the policy has one. Raises UserError."""
    if "semantic" not in kinds:
        return codec.encode
    from codec.log_mel import SAMPLE_RATE_HZ
    from codec.semantic import load_semantic
    from evaluation.test_set import stream_encoder

    if not semantic_dir:
        raise UserError("semantic: got nothing, allowed the folder of the semantic tokens that this policy models")
    if codec.sample_rate_hz != SAMPLE_RATE_HZ:
        raise UserError(f"codec: got {codec.sample_rate_hz} Hz, allowed {SAMPLE_RATE_HZ} Hz beside semantic tokens")
    return stream_encoder(codec, load_semantic(semantic_dir).encode)
