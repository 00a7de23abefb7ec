"""Samples a MusicGen step by step, with everything that stays the same computed once.

On a CPU a float32 policy runs compiled kernels over weights laid out for them (policy.musicgen.packed); anything else
runs torch's modules. Either way the text is encoded, projected and turned into cross-attention's keys and values once
for each different prompt, keys and values of the past lie in caches of fixed size, of a guided row the null half has no
cross-attention, and the heads, which are linear, run once on null + g (conditioned - null). What stands before the
tokens of a MusicGen-Melody is worked out once for each different prompt, and copied into the caches of its rows.

A cell is drawn by inverting its distribution function at the row's next uniform number, so that a row depends on its
seed alone, whatever else is in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policy.linear import kernels_serve
from policy.musicgen.model import MusicGen
from policy.musicgen.packed import PackedMusicGen, Precision, Text
from policy.musicgen.packed_prefix import Chroma, Prefixes
from policy.musicgen.slots import Slots
from policy.musicgen.torch_steps import TorchSteps, draw
from policy.port import SamplingSettings
from policy.sampler import uniform_noise
from policy.threads import share_rows

LEAST_ROWS = 8  # of a thread


class MusicGenSampler:
    """Sampling of one policy. Call `refresh` after its weights changed.

    precision: with bfloat16, weights and what is multiplied with them have 16 bits. The log-probabilities are those of
    what is sampled, which then differs from the policy itself by the rounding.
    """

    def __init__(self, policy: MusicGen, precision: Precision = "float32") -> None:
        self.policy, self.precision = policy, precision
        self.refresh()

    def refresh(self) -> None:
        """Takes over the policy's present weights."""
        served = kernels_serve(self.policy.heads.weight)
        self._chroma: Chroma | None = None  # of these weights, where somebody has sampled
        self.packed = PackedMusicGen(self.policy, self.precision) if served else None
        rounded = self.precision == "bfloat16" and not served
        self.modules = copy.deepcopy(self.policy).to(torch.bfloat16) if rounded else self.policy

    @torch.no_grad()
    def sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        """text [B, L], one seed a row -> codes [B, K, T] int64 and the log-probabilities [B, K, T] float32 that
        log_probs.log_distribution gives them.

        Raises ValueError where rows and seeds differ in number or `frames` is not in 1..max_frames.
        """
        self._check(text, seeds, frames)
        if self.packed is None:
            return self._sample_by_torch(text, uniform_noise(seeds, frames, self.policy.shapes.codebooks), settings)
        return self._sample_packed(self.packed, text, seeds, [frames] * len(text), settings, len(text))

    @torch.no_grad()
    def sample_each(
        self, text: Tensor, seeds: Sequence[int], frames: Sequence[int], settings: SamplingSettings, slots: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Clips of different lengths, at most `slots` at a time; one that ends makes room for the next at once.

        They begin in their order: with the long ones first, the fewest slots stay empty at the end. Where threads take
        clips of their own, which is with small weights, each has so many slots.

        text [N, L], a seed and a number of frames for each -> of each, codes [K, T] and log-probabilities [K, T]: what
        `sample` gives it alone. Raises ValueError as `sample` does, and without a slot.
        """
        if len(frames) != len(text) or slots < 1:
            got = f"{len(text)} rows, {len(frames)} lengths, {slots} slots"
            raise ValueError(f"sample: got {got}, allowed one length a row, at least one slot")
        for count in frames:
            self._check(text, seeds, count)
        if self.packed is None:
            alone = [self.sample(text[n : n + 1], seeds[n : n + 1], count, settings) for n, count in enumerate(frames)]
            return [(codes[0], log_probs[0]) for codes, log_probs in alone]
        found = self._sample_packed(self.packed, text, seeds, frames, settings, slots)
        return [(codes[:, :count], chances[:, :count]) for count, codes, chances in zip(frames, *found, strict=True)]

    def _check(self, text: Tensor, seeds: Sequence[int], frames: int) -> None:
        most = self.policy.shapes.max_frames
        if len(seeds) != len(text) or not 1 <= frames <= most:
            got = f"{len(text)} rows, {len(seeds)} seeds, {frames} frames"
            raise ValueError(f"sample: got {got}, allowed one seed a row, 1 to {most} frames")

    def _sample_packed(
        self,
        packed: PackedMusicGen,
        text: Tensor,
        seeds: Sequence[int],
        frames: Sequence[int],
        settings: SamplingSettings,
        slots: int,
    ) -> tuple[Tensor, Tensor]:
        """-> codes and log-probabilities [N, K, T], T the greatest number of frames."""
        noise = uniform_noise(seeds, max(frames), packed.shapes.codebooks).permute(2, 1, 0).numpy()  # [N, K, T]
        codes, log_probs = np.zeros(noise.shape, np.int64), np.zeros(noise.shape, np.float32)
        known, counts = self._known(packed, text), np.array(frames)
        texts = np.zeros_like(counts) if known is None else known.place_of

        def work(begin: int, end: int) -> None:
            own = slice(begin, end)
            clips = Slots(packed, known, texts[own], counts[own], min(slots, end - begin), settings)
            clips.run(noise[own], codes[own], log_probs[own])

        if packed.small:
            share_rows(len(text), LEAST_ROWS, work)
        else:
            work(0, len(text))
        return torch.from_numpy(codes), torch.from_numpy(log_probs)

    def _known(self, packed: PackedMusicGen, text: Tensor) -> Text | Prefixes | None:
        """What rows are conditioned on."""
        if not packed.shapes.melody:
            return packed.condition(text)
        self._chroma = self._chroma or Chroma(packed)
        return Prefixes(self._chroma, text)

    def _sample_by_torch(self, text: Tensor, noise: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
        """noise [T, K, B] -> codes and log-probabilities [B, K, T]."""
        shapes, device, (frames, books, _) = self.policy.shapes, self.policy.heads.weight.device, noise.shape
        noise, layout = noise.to(device), self.policy.trunk.layout(frames)
        codes = torch.full((len(text), books, frames), shapes.entries, dtype=torch.int64, device=device)
        log_probs = torch.zeros(codes.shape, device=device)
        steps = frames + max(shapes.delays)
        state = TorchSteps(self.modules, text.to(device), steps, settings)
        shown = torch.full((len(text), books), shapes.entries, dtype=torch.int64, device=device)
        for step in range(steps):
            logits = state.next(shown, step)  # [B, K, V]
            shown = torch.full_like(shown, shapes.entries)
            cells = [(k, t) for k, t in enumerate(layout.frame[step + 1]) if t >= 0]
            levels, places = (list(part) for part in zip(*cells, strict=True))
            drawn, chosen = draw(logits[:, levels], noise[places, levels].T, settings)
            shown[:, levels] = drawn
            codes[:, levels, places], log_probs[:, levels, places] = drawn, chosen
        return codes.to(text.device), log_probs.to(text.device)
