"""Samples a MusicGen step by step, with everything that stays the same computed once.

On a CPU a float32 policy runs compiled kernels over weights laid out for them (policy.musicgen.packed); anything else
runs torch's modules. Either way the text is encoded, projected and turned into cross-attention's keys and values once
for each different prompt, keys and values of the past lie in caches of fixed size, of a guided row the null half has no
cross-attention, and the heads, which are linear, run once on null + g (conditioned - null).

A cell is drawn by inverting its distribution function at the row's next uniform number, so that a row depends on its
seed alone, whatever else is in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from codec.layout import EMPTY
from policy.compiled.draw import draw as draw_rows
from policy.compiled.draw import draw_shapes
from policy.linear import kernels_serve
from policy.musicgen.model import MusicGen
from policy.musicgen.packed import PackedMusicGen, Precision, Steps
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
        shapes = self.policy.shapes
        if len(seeds) != len(text) or not 1 <= frames <= shapes.max_frames:
            got = f"{len(text)} rows, {len(seeds)} seeds, {frames} frames"
            raise ValueError(f"sample: got {got}, allowed one seed a row, 1 to {shapes.max_frames} frames")
        noise = uniform_noise(seeds, frames, shapes.codebooks)  # [T, K, B]
        if self.packed is None:
            return self._sample_by_torch(text, noise, settings)
        codes, log_probs = (
            text.new_zeros(len(text), shapes.codebooks, frames, dtype=kind) for kind in (torch.int64, torch.float32)
        )
        small = self.packed.small

        def work(begin: int, end: int) -> None:
            with torch.inference_mode():  # of this thread
                found = self._sample_packed(text[begin:end], noise[..., begin:end], settings, shared=not small)
            codes[begin:end], log_probs[begin:end] = found

        if small:
            share_rows(len(text), LEAST_ROWS, work)
        else:
            work(0, len(text))
        return codes, log_probs

    def _sample_packed(
        self, text: Tensor, noise: Tensor, settings: SamplingSettings, shared: bool
    ) -> tuple[Tensor, Tensor]:
        """noise [T, K, B] -> codes and log-probabilities [B, K, T]."""
        assert self.packed is not None
        shapes, (frames, books, rows) = self.policy.shapes, noise.shape
        layout = self.policy.trunk.layout(frames)
        frame_of = np.array(layout.frame[1:])  # [S, K], of what is drawn at each step
        drawn = frame_of != EMPTY
        uniform = noise.numpy()[frame_of, np.arange(books)] * drawn[..., None]  # [S, K, B]
        uniform = np.ascontiguousarray(uniform.transpose(0, 2, 1)).reshape(len(drawn), -1)
        steps = Steps(self.packed, text, len(drawn), settings.guidance_scale, shared)
        shown = np.full((rows, books), shapes.entries)
        codes, chances = np.empty((len(drawn), rows, books), np.int64), np.empty((len(drawn), rows, books), np.float32)
        scratch = [np.zeros(length, np.float32) for length in draw_shapes(shapes.entries)]
        chosen = np.float32(1), np.float32(settings.temperature)  # the logits are guided already
        logits = steps.logits.reshape(rows * books, -1)
        for step in range(len(drawn)):
            steps.next(shown, np.full(rows, step))
            tokens = codes[step].reshape(-1), chances[step].reshape(-1)
            draw_rows(logits, shapes.entries, *chosen, uniform[step], *scratch, *tokens)
            np.copyto(shown, np.where(drawn[step], codes[step], shapes.entries))
        found = (torch.from_numpy(part).permute(1, 2, 0) for part in (codes, chances))  # [B, K, S]
        places = torch.arange(frames) + torch.tensor(shapes.delays)[:, None]
        codes_of, log_probs = (part.gather(2, places.expand(rows, -1, -1)) for part in found)
        return codes_of, log_probs

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
