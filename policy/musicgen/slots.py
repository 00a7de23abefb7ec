"""Clips that are sampled together, each at its own place: one that ends makes room for the next at once.

A clip's length is known before it begins, for nothing that a MusicGen samples ends it.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from policy.compiled.draw import draw, draw_shapes
from policy.compiled.simd import Floats, Integers
from policy.musicgen.packed import PackedMusicGen, Steps, Text
from policy.musicgen.packed_prefix import Prefixes
from policy.port import SamplingSettings

NOBODY = -1


class Slots:
    """`count` slots for clips of so many frames [N], each of the text whose place is in `texts` [N]. A slot is a row of
    the steps."""

    def __init__(
        self,
        packed: PackedMusicGen,
        text: Text | Prefixes | None,
        texts: Integers,
        frames: Integers,
        count: int,
        settings: SamplingSettings,
    ) -> None:
        self.shapes, self.settings, self.frames, self.texts = packed.shapes, settings, frames, texts
        self.delays = np.array(packed.shapes.delays)
        longest, shared = int(frames.max()) + int(self.delays.max()), not packed.small
        crossed, prefixes = (None, text) if isinstance(text, Prefixes) else (text, None)
        self.steps = Steps(packed, crossed, count, longest, settings.guidance_scale, shared, prefixes)
        self.waiting = deque(range(len(frames)))
        self.clips, self.places = np.full(count, NOBODY), np.zeros(count, np.int64)  # [B]
        self.shown = np.empty((count, len(self.delays)), np.int64)
        for slot in range(count):
            self._take_next(slot)

    def run(self, noise: Floats, codes: Integers, log_probs: Floats) -> None:
        """noise, and what is filled: codes and log-probabilities, all [N, K, T]."""
        books, size = np.arange(len(self.delays)), self.shapes.entries
        tokens, chances = np.empty_like(self.shown), np.empty(self.shown.shape, np.float32)
        logits, scratch = (
            self.steps.logits.reshape(tokens.size, size),
            [np.zeros(n, np.float32) for n in draw_shapes(size)],
        )
        chosen = np.float32(1), np.float32(self.settings.temperature)  # the logits are guided already
        while (self.clips != NOBODY).any():
            frames = self.places[:, None] - self.delays  # [B, K], of the cells that this step draws
            drawn = (frames >= 0) & (frames < self.lengths[:, None])
            uniform = noise[self.clips[:, None], books, np.clip(frames, 0, noise.shape[2] - 1)]
            self.steps.next(self.shown, self.places)
            draw(logits, size, *chosen, uniform.reshape(-1), *scratch, tokens.reshape(-1), chances.reshape(-1))
            slots, levels = np.nonzero(drawn)
            cells = self.clips[slots], levels, frames[drawn]
            codes[cells], log_probs[cells] = tokens[drawn], chances[drawn]
            self.shown[:] = np.where(drawn, tokens, size)
            self.places += 1
            for slot in np.flatnonzero(self.places == self.lengths + self.delays.max()):
                self._take_next(int(slot))

    @property
    def lengths(self) -> Integers:
        """Frames of each slot's clip [B]; 0 where there is none."""
        return np.where(self.clips == NOBODY, 0, self.frames[self.clips])

    def _take_next(self, slot: int) -> None:
        """The next clip that waits begins in a slot; with none left it stays empty, at its first place."""
        self.clips[slot] = clip = self.waiting.popleft() if self.waiting else NOBODY
        self.places[slot], self.shown[slot] = 0, self.shapes.entries
        if clip != NOBODY:
            self.steps.begin(slot, int(self.texts[clip]))
