"""Samples a TinyMusicLM frame by frame on a CPU, with everything laid out beforehand.

What makes it fast: products compiled for few rows; keys and values in caches of fixed size, few key heads; the text
prefix computed once for each different text; the first depth block looked up, but for its attention; one uniform
number a cell instead of a noise value an entry; buffers made once a call.

A cell is drawn by inverting its distribution function: the entry whose slice of [0, 1) holds the row's next uniform
number. A row's numbers come from its own generator, so they depend on its seed alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.compiled.draw import draw, draw_shapes
from policy.compiled.simd import Floats, Integers
from policy.packed import (
    DepthSteps,
    Norm,
    PackedBlock,
    PackedLinear,
    TemporalSteps,
    alone,
    as_array,
    table_of_tokens,
)
from policy.port import SamplingSettings
from policy.threads import share_rows
from policy.tiny_musiclm import TinyMusicLM

LEAST_ROWS = 16  # of a thread


class Sampler:
    """Sampling of one policy. Call `refresh` after its weights changed."""

    def __init__(self, policy: TinyMusicLM) -> None:
        self.policy = policy
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the policy's present weights."""
        trunk, depth, streams = self.policy.trunk, self.policy.depth, self.policy.streams
        self.temporal = [PackedBlock(layer) for layer in trunk.blocks]
        self.depth = [PackedBlock(layer) for layer in depth.blocks]
        self.project, self.first_place = PackedLinear(depth.project.weight), as_array(depth.embed_place[0])
        self.tables = [table_of_tokens(depth, k, stream.size) for k, stream in enumerate(streams[:-1])]
        self.heads = [PackedLinear(head.t()) for head in depth.heads]
        self.norm, self.depth_norm = as_array(trunk.norm.weight), as_array(depth.norm.weight)
        self.embed_codes = trunk.embed_codes.weight.detach().to("cpu", torch.float32, copy=True)
        self.embed_start, self.embed_text = as_array(trunk.embed_start), as_array(trunk.embed_text.weight)
        self.turns, self.offsets = as_array(trunk.turns), trunk.offsets.cpu()

    def sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        """text [B, L], one seed a row -> codes [B, K, T] int64 and the log-probabilities [B, K, T] float32 that
        log_probs.log_distribution gives them.

        Raises ValueError where rows and seeds differ in number or `frames` is not in 1..max_frames.
        """
        if len(seeds) != len(text) or not 1 <= frames <= self.policy.config.max_frames:
            got = f"{len(text)} rows, {len(seeds)} seeds, {frames} frames"
            raise ValueError(f"sample: got {got}, allowed one seed a row, 1 to {self.policy.config.max_frames} frames")
        shape = len(text), len(self.policy.streams), frames
        codes, log_probs = np.empty(shape, np.int64), np.empty(shape, np.float32)

        def work(begin: int, end: int) -> None:
            with torch.inference_mode():  # of this thread: a tensor of the caller's mode could not be filled here
                found = self._sample(text[begin:end], seeds[begin:end], frames, settings)
            codes[begin:end], log_probs[begin:end] = (part.transpose(2, 1, 0) for part in found)

        share_rows(len(text), LEAST_ROWS, work)
        return torch.from_numpy(codes).to(text.device), torch.from_numpy(log_probs).to(text.device)

    def _sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Integers, Floats]:
        """-> codes and their log-probabilities, both [T, K, B]."""
        streams, rows, length = len(self.policy.streams), len(text), text.shape[1]
        copies = 1 if settings.guidance_scale == 1.0 else 2
        texts = text if copies == 1 else torch.cat([text, self.policy.null_text(rows)])
        blocks = self._prefix(texts.cpu(), self.turns[: length + frames])
        noise = uniform_noise(seeds, frames, streams).numpy()
        codes, log_probs = np.empty((frames, streams, rows), np.int64), np.empty((frames, streams, rows), np.float32)
        norm, frame = Norm(self.norm, rows * copies), _Frame(self, settings, rows, copies)
        x = np.tile(self.embed_start, (rows * copies, 1))
        for t in range(frames):
            state = alone(x)
            for block in blocks:
                state = block.step(state, length + t)
            frame.draw(norm(state)[1], noise[t], codes[t], log_probs[t])
            x = np.tile(self._embed(codes[t]), (copies, 1))
        return codes, log_probs

    def _prefix(self, texts: Tensor, turns: Floats) -> list[TemporalSteps]:
        """Every temporal block, its cache filled with the texts. Equal texts are computed once."""
        rows, length = texts.shape
        different, row_of = torch.unique(texts, dim=0, return_inverse=True)
        state = alone(self.embed_text[different.reshape(-1).numpy()])
        blocks = []
        for weights in self.temporal:
            text = TemporalSteps(weights, len(different), turns[:length], places=length)
            parts = text.attend(state, 0)
            blocks.append(TemporalSteps(weights, rows, turns))
            blocks[-1].take(text, row_of.numpy())
            if len(blocks) < len(self.temporal):  # of the last block nothing is read but keys and values
                state = text.finish(*parts)
        return blocks

    def _embed(self, codes: Integers) -> Floats:
        """codes [K, B] -> [B, D], the sum of the streams' embeddings."""
        rows = torch.from_numpy(codes) + self.offsets[:, None]
        return F.embedding_bag(rows.t(), self.embed_codes, mode="sum").numpy()


class _Frame:
    """The depth transformer over one frame: K tokens from one state."""

    def __init__(self, sampler: Sampler, settings: SamplingSettings, rows: int, copies: int) -> None:
        self.sampler, everything = sampler, rows * copies
        streams = [stream.size for stream in sampler.policy.streams]
        self.blocks = [DepthSteps(block, everything, len(streams)) for block in sampler.depth]
        self.norm, self.projected = Norm(sampler.depth_norm, everything), sampler.project.buffer(everything)
        self.logits = sampler.heads[0].buffer(everything)
        chosen = np.float32(settings.guidance_scale), np.float32(settings.temperature)
        self.settings = [(size, *chosen) for size in streams]
        self.scratch = [np.zeros(length, np.float32) for length in draw_shapes(max(streams))]

    def draw(self, context: Floats, noise: Floats, tokens: Integers, log_probs: Floats) -> None:
        """context [copies B, D], noise [K, B] -> fills tokens and log_probs [K, B]."""
        sampler, first = self.sampler, self.blocks[0]
        x = sampler.project(context, self.projected)
        x += sampler.first_place
        state = first.step(alone(x), 0)
        for k, uniform in enumerate(noise):
            if k:
                state = first.step_token(sampler.tables[k - 1], tokens[k - 1], k)
            for block in self.blocks[1:]:
                state = block.step(state, k)
            logits = sampler.heads[k](self.norm(state)[1], self.logits)
            draw(logits, *self.settings[k], uniform, *self.scratch, tokens[k], log_probs[k])


def uniform_noise(seeds: Sequence[int], frames: int, streams: int) -> Tensor:
    """One uniform number in [0, 1) a cell, each row from its own generator -> [T, K, B].

    Drawn in the order of sampling, so that a shorter sequence of the same seed is the beginning of a longer one.
    """
    rows = [torch.rand(frames, streams, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows, dim=-1)
