"""What a MusicGen-Melody's caches begin with: keys and values of the chroma and of the text, worked out once.

Nothing that stands before a place hangs on what follows it. So the chroma of silence, which stands first, is worked out
once for all weights, each different prompt once behind it, and the null condition once, for the longest prompt: of a
shorter one it has the first places. A row that begins gets copies. All of it goes through the kernels of the steps,
attention place by place, so that rows get what they would have worked out themselves.

Letters: R rows, D width, N texts, U different ones, L = LANES; caches are as policy.musicgen.packed makes them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policy.compiled import decoder
from policy.compiled.simd import LANES, Floats
from policy.musicgen.melody import NOTHING
from policy.musicgen.packed import Caches, PackedMusicGen, Rows, caches_of
from policy.musicgen.t5 import PAD


class Prefill(Rows):
    """Places of one sequence, which are its rows."""

    def add(self, x: Floats, first: int, caches: Caches) -> None:
        """x [R, D], at the places first, ..., first + R - 1 -> their keys and values, into caches of one row."""
        behind = first + len(x)
        self.x[:] = x + self.weights.places(behind)[first:behind]

        def attend(layer: int) -> None:
            keys, values = (cache[layer] for cache in caches)
            for row in range(len(x)):
                own, place = slice(row, row + 1), np.array([first + row])
                decoder.attend_past(self.qkv_heads[own], place, keys, values, self.attended[own], 0, 1)

        self.through(attend)


class Chroma:
    """Caches of one row that hold the chroma of silence."""

    def __init__(self, weights: PackedMusicGen) -> None:
        self.weights, self.places = weights, weights.shapes.chroma_places
        self._caches = caches_of(weights, 1, self.places)
        Prefill(weights, self.places, not weights.small).add(weights.silence, 0, self._caches)

    def followed_by(self, x: Floats) -> Caches:
        """x [R, D] behind the chroma -> what caches hold from the chroma's last block on."""
        caches = caches_of(self.weights, 1, self.places + len(x))
        _copy(self._caches, caches, 0, 0)
        Prefill(self.weights, len(x), not self.weights.small).add(x, self.places, caches)
        keys, values = caches
        block = self.places // LANES
        return keys[:, :, :, block:].copy(), values[:, :, :, block * LANES :].copy()

    def begin(self, behind: Caches, caches: Caches, row: int) -> None:
        """The chroma, and what `followed_by` gave, into a row of the caches."""
        _copy(self._caches, caches, row, 0)
        _copy(behind, caches, row, self.places // LANES)


class Prefixes:
    """Those of texts [N, L], each different one worked out once, and of the null condition."""

    @torch.no_grad()
    def __init__(self, chroma: Chroma, text: Tensor) -> None:
        weights, self._chroma = chroma.weights, chroma
        different, text_of = torch.unique(text, dim=0, return_inverse=True)
        states = weights.prompts.states(different.clamp_min(PAD)).float()
        words = []
        for row, tokens in zip(states, different, strict=True):
            spoken = (tokens[tokens != PAD] != NOTHING).numpy().astype(np.float32)[:, None]
            found = weights.projected(row[tokens != PAD]) * spoken
            words.append(found if len(found) else np.zeros((1, weights.shapes.width), np.float32))
        self.place_of = text_of.numpy().astype(np.int64)
        self.counts = [chroma.places + len(rows) for rows in words]  # [U], places of each
        self._texts = [chroma.followed_by(rows) for rows in words]
        self._null = chroma.followed_by(np.zeros_like(max(words, key=len)))

    @property
    def longest(self) -> int:
        """Places of the longest."""
        return max(self.counts)

    def begin(self, text: int, caches: Caches, row: int, null_row: int | None) -> int:
        """Puts a text's prefix into a row of the caches, and the null condition's into another -> how many places each
        takes."""
        self._chroma.begin(self._texts[text], caches, row)
        if null_row is not None:
            self._chroma.begin(self._null, caches, null_row)
        return self.counts[text]


def _copy(source: Caches, target: Caches, row: int, block: int) -> None:
    """A cache of one row into another's row, from a block on, as far as that reaches."""
    (keys, values), (into_keys, into_values) = source, target
    blocks, first = min(keys.shape[3], into_keys.shape[3] - block), block * LANES
    into_keys[:, row, :, block : block + blocks] = keys[:, 0, :, :blocks]
    into_values[:, row, :, first : first + blocks * LANES] = values[:, 0, :, : blocks * LANES]
