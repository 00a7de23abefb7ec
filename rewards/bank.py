"""What the reward models and judges learn from: log-mel spectra of clips as heard clean, damaged and through the codec.

A run scores what the codec's decoder draws (`decode_log_mel`, no phase); an evaluation scores the waveform after phase
reconstruction. Both are in the bank, so that one model reads both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.log_mel import LOG_FLOOR, MELS, log_mel
from codec.port import Codec
from world.corpus import CorpusSplit
from world.degradations import degrade, wrong_tokens

VIEWS = ("clean", "damaged", "tokens", "damaged_tokens", "wrong_tokens", "waveform", "nothing")
NO_CLIP = -1  # silence and random tokens belong to no clip and fit no caption


@dataclass(frozen=True)
class Bank:
    """n views of clips. `view` indexes VIEWS, `clip` the split, `severity` is 0 for an undamaged clip.

    A codec's own loss is no damage: the policy cannot play better than its codec.
    """

    log_mel: Tensor  # [n, 64, F] float16
    clip: Tensor  # [n] int64
    severity: Tensor  # [n] float32
    view: Tensor  # [n] int64

    def __len__(self) -> int:
        return len(self.clip)

    def of_clips(self) -> Bank:
        """Without the rows that belong to no clip."""
        return self.take((self.clip != NO_CLIP).nonzero()[:, 0])

    def take(self, rows: Tensor) -> Bank:
        return Bank(self.log_mel[rows], self.clip[rows], self.severity[rows], self.view[rows])


class _Shelf:
    """Collects rows of a bank."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def put(self, view: str, mel: Tensor, clip: Tensor, severity: Tensor) -> None:
        kinds = torch.full((len(clip),), VIEWS.index(view))
        self.rows.append((mel.to(torch.float16), clip, severity.float(), kinds))

    def bank(self) -> Bank:
        return Bank(*(torch.cat(column) for column in zip(*self.rows, strict=True)))


def build_bank(
    split: CorpusSplit,
    codec: Codec | None,
    seed: int,
    codec_share: float = 0.5,
    waveform_share: float = 0.12,
    progress: Callable[[str], None] = print,
) -> Bank:
    """Every clip clean and damaged once; a share of them through the codec, clean and damaged; fewer as waveforms.

    Seeded. Without a codec only the first two views, and silence.
    """
    rng = np.random.default_rng((seed, 71))
    shelf = _Shelf()
    with torch.inference_mode():
        for count, clips in _chunks(len(split)):
            pcm = split.pcm(clips)
            clip, zero = torch.from_numpy(clips), torch.zeros(len(clips))
            damaged, _, severity = degrade(pcm, rng)
            shelf.put("clean", log_mel(pcm), clip, zero)
            shelf.put("damaged", log_mel(damaged), clip, severity)
            if codec is not None:
                picked = _drawn(len(clips), codec_share, rng)
                _through_codec(
                    shelf, codec, pcm[picked], damaged[picked], clip[picked], severity[picked], rng, waveform_share
                )
            if count % 10 == 0:
                progress(f"bank: {int(clips[-1]) + 1} of {len(split)} clips")
        _nothing(shelf, codec, len(split) // 50, rng)
    return shelf.bank()


def saved_bank(path: str | Path, make: Callable[[], Bank], key: str) -> Bank:
    """The bank at `path` if it was made for `key`, else `make()`, kept there."""
    file = Path(path)
    if file.exists():
        with np.load(file) as stored:
            if str(stored["key"]) == key:
                return Bank(*(torch.from_numpy(stored[name]) for name in ("log_mel", "clip", "severity", "view")))
    bank = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.stem + ".tmp.npz")
    np.savez(temporary, key=np.array(key), **{name: value.numpy() for name, value in vars(bank).items()})
    temporary.replace(file)
    return bank


def batches(bank: Bank, size: int, steps: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Bank]]:
    """Random crops of 1.5 to 4 s, all of a batch alike long, their level shifted by up to 2 dB.

    -> (log-mel [size, 64, f] float32, the rows they come from).
    """
    order = _endless(len(bank), rng)
    spectra = bank.log_mel.shape[-1]
    for _ in range(steps):
        rows = bank.take(torch.from_numpy(np.array([next(order) for _ in range(size)])))
        length = int(rng.integers(min(75, spectra), spectra + 1))
        starts = rng.integers(0, spectra - length + 1, size)
        crops = torch.stack([row[:, s : s + length] for row, s in zip(rows.log_mel, starts, strict=True)]).float()
        level = torch.as_tensor(rng.uniform(-0.23, 0.23, (size, 1, 1)), dtype=torch.float32)
        yield crops + level, rows


def _through_codec(
    shelf: _Shelf,
    codec: Codec,
    pcm: Tensor,
    damaged: Tensor,
    clip: Tensor,
    severity: Tensor,
    rng: np.random.Generator,
    waveform_share: float,
) -> None:
    if not len(clip):
        return
    codes, damaged_codes = codec.encode(pcm[:, None]), codec.encode(damaged[:, None])
    zero = torch.zeros(len(clip))
    shelf.put("tokens", codec.decode_log_mel(codes), clip, zero)
    shelf.put("damaged_tokens", codec.decode_log_mel(damaged_codes), clip, severity)
    strength = torch.as_tensor(rng.random(len(clip)), dtype=torch.float32)
    wrong = wrong_tokens(codes, rng, strength, min(codec.codebook_sizes))
    half = _drawn(len(clip), 0.5, rng)
    if len(half):
        shelf.put("wrong_tokens", codec.decode_log_mel(wrong[half]), clip[half], strength[half])
    for some, its_severity in ((codes, zero), (damaged_codes, severity), (wrong, strength)):
        heard = _drawn(len(clip), waveform_share, rng)
        if len(heard):
            shelf.put("waveform", log_mel(codec.decode(some[heard])[:, 0]), clip[heard], its_severity[heard])


def _nothing(shelf: _Shelf, codec: Codec | None, count: int, rng: np.random.Generator) -> None:
    """Silence and random tokens: worth nothing, whatever a policy may find there."""
    count = max(count, 2)
    spectra = shelf.rows[0][0].shape[-1]
    floor = float(np.log(LOG_FLOOR))
    level = torch.as_tensor(rng.uniform(floor, floor + 1.5, (count, 1, 1)), dtype=torch.float32)
    none, worst = torch.full((count,), NO_CLIP), torch.ones(count)
    shelf.put("nothing", level.expand(count, MELS, spectra), none, worst)
    if codec is not None:
        frames = round(spectra / 50 * codec.frame_rate_hz)
        codes = rng.integers(0, min(codec.codebook_sizes), (count, len(codec.codebook_sizes), frames))
        mel = codec.decode_log_mel(torch.from_numpy(codes))
        shelf.put("nothing", mel[..., :spectra], none, worst)


def _drawn(count: int, share: float, rng: np.random.Generator) -> Tensor:
    """Which of `count` rows fall to `share`; may be none."""
    return torch.from_numpy(np.flatnonzero(rng.random(count) < share))


def _chunks(clips: int, size: int = 64) -> Iterator[tuple[int, np.ndarray]]:
    for count, start in enumerate(range(0, clips, size)):
        yield count, np.arange(start, min(start + size, clips))


def _endless(n: int, rng: np.random.Generator) -> Iterator[int]:
    """Every index once an epoch, in a new order each time."""
    while True:
        yield from rng.permutation(n)
