"""Token layouts: how the K x T cells of a clip are put in an order for an autoregressive model, as checked data.

A layout is a table of steps; each step holds K places, and each place either shows one cell (level k of frame t) or is
empty. `InterleavedFrames` lays a frame out over K steps of one token; `DelayPattern` shows level k of frame t at step
t + k + 1, so that a step predicts K tokens at once.

Source: Copet et al. 2023 (arXiv 2306.05284), section 2.2 (delay); Cideron et al. 2024 (arXiv 2402.04229), section 3.1
(frames of interleaved semantic and coarse tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cluster.errors import UserError

EMPTY = -1


@dataclass(frozen=True)
class Layout:
    """`frame[s][p]` and `level[s][p]` say which cell step s shows in place p; -1 where it shows none."""

    levels: int
    frames: int
    frame: tuple[tuple[int, ...], ...]
    level: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        cells = [cell for cell in self._cells() if cell[0] != EMPTY]
        if len(set(cells)) != len(cells):
            raise UserError("layout: got a cell that is shown twice, allowed once")
        wanted = {(t, k) for t in range(self.frames) for k in range(self.levels)}
        if set(cells) != wanted:
            raise UserError(f"layout: got {len(set(cells) & wanted)} of {len(wanted)} cells, allowed every cell once")
        self._check_causal()

    @property
    def steps(self) -> int:
        return len(self.frame)

    @property
    def places(self) -> int:
        return len(self.frame[0])

    def to_sequence(self, codes: Tensor, empty: int) -> Tensor:
        """codes [B, K, T] -> sequence [B, P, S]; empty places hold the token `empty`."""
        self._check_codes(codes)
        index, valid = (part.to(codes.device) for part in self._index())
        flat = codes.flatten(1)[:, index.clamp_min(0)]
        return torch.where(valid, flat, torch.full_like(flat, empty))

    def from_sequence(self, sequence: Tensor) -> Tensor:
        """sequence [B, P, S] -> codes [B, K, T]; what stands in empty places is ignored."""
        if sequence.shape[1:] != (self.places, self.steps):
            allowed = (self.places, self.steps)
            raise ValueError(f"sequence: got shape {tuple(sequence.shape)}, allowed [B, {allowed[0]}, {allowed[1]}]")
        index, valid = self._index()
        codes = sequence.new_zeros(len(sequence), self.levels * self.frames)
        codes[:, index[valid]] = sequence[:, valid]
        return codes.view(len(sequence), self.levels, self.frames)

    def valid_mask(self) -> Tensor:
        """bool [P, S]: the places that show a cell. Losses, KL and entropy count only these."""
        return self._index()[1]

    def _cells(self) -> list[tuple[int, int]]:
        rows = zip(self.frame, self.level, strict=True)
        return [cell for frames, levels in rows for cell in zip(frames, levels, strict=True)]

    def _check_causal(self) -> None:
        """Level k of a frame never comes before level k - 1, nor a level's frame before its frame of earlier time."""
        at = {cell: place // len(self.frame[0]) for place, cell in enumerate(self._cells()) if cell[0] != EMPTY}
        for (t, k), step in at.items():
            if (k and at[(t, k - 1)] > step) or (t and at[(t - 1, k)] >= step):
                raise UserError(f"layout: got level {k} of frame {t} before what it depends on, allowed after")

    def _check_codes(self, codes: Tensor) -> None:
        if codes.shape[1:] != (self.levels, self.frames):
            raise ValueError(f"codes: got shape {tuple(codes.shape)}, allowed [B, {self.levels}, {self.frames}]")

    def _index(self) -> tuple[Tensor, Tensor]:
        return _flat_index(self)


@lru_cache(maxsize=64)
def _flat_index(layout: Layout) -> tuple[Tensor, Tensor]:
    """(index into the flattened [K * T] cells, valid), both [P, S]."""
    frame, level = torch.tensor(layout.frame).T, torch.tensor(layout.level).T
    valid = frame != EMPTY
    return torch.where(valid, level * layout.frames + frame, EMPTY), valid


@lru_cache(maxsize=64)
def interleaved_frames(levels: int, frames: int) -> Layout:
    """One token a step: frame 0's levels from coarse to fine (semantic first), then frame 1's, and so on."""
    _check_size(levels, frames)
    cells = [(t, k) for t in range(frames) for k in range(levels)]
    return Layout(levels, frames, tuple((t,) for t, _ in cells), tuple((k,) for _, k in cells))


@lru_cache(maxsize=64)
def delay_pattern(levels: int, frames: int, delays: tuple[int, ...] = ()) -> Layout:
    """K tokens a step, level k `delays[k]` steps late (none given: one step later than level k - 1).

    Step 0 is empty, S = 1 + T + the longest delay.
    """
    _check_size(levels, frames)
    late = delays or tuple(range(levels))
    if len(late) != levels or min(late) < 0:
        raise UserError(f"layout: got delays {late}, allowed {levels} whole numbers of at least 0")
    steps = range(1 + frames + max(late))
    shown = [[step - 1 - by if 0 <= step - 1 - by < frames else EMPTY for by in late] for step in steps]
    names = [[k if t != EMPTY else EMPTY for k, t in enumerate(row)] for row in shown]
    return Layout(levels, frames, tuple(map(tuple, shown)), tuple(map(tuple, names)))


def _check_size(levels: int, frames: int) -> None:
    if levels < 1 or frames < 1:
        raise UserError(f"layout: got {levels} levels of {frames} frames, allowed at least 1 of each")
