"""Samples a TinyMusicLM frame by frame, with everything laid out beforehand.

What makes it fast on a CPU: weights packed once by oneDNN; keys and values in caches of fixed size, few key heads;
the text prefix computed once for each different text; attention inside the frame as sums over the leading dimension;
the first depth block looked up, but for its attention; one uniform number a cell instead of a noise value an entry;
guidance on the last hidden state, before the heads.

A cell is drawn by inverting its distribution function: the entry whose slice of [0, 1) holds the row's next uniform
number. A row's numbers come from its own generator, so they depend on its seed alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from policy.packed import NORM_EPS, DepthCache, PackedBlock, PackedLinear, TemporalCache, TokenTable
from policy.port import SamplingSettings
from policy.tiny_musiclm import TinyMusicLM


class Sampler:
    """Sampling of one policy. Call `refresh` after its weights changed."""

    def __init__(self, policy: TinyMusicLM) -> None:
        self.policy = policy
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the policy's present weights."""
        trunk, depth = self.policy.trunk, self.policy.depth
        self.temporal = [PackedBlock(layer) for layer in trunk.blocks]
        self.depth = [PackedBlock(layer) for layer in depth.blocks]
        self.project = PackedLinear(depth.project.weight)
        self.tables = [TokenTable(depth, k, stream.size) for k, stream in enumerate(self.policy.streams[:-1])]
        self.heads = depth.heads.detach().transpose(1, 2).clone()  # packed with each call's temperature
        self.first_place = depth.embed_place[0].clone()
        self.embed_codes, self.embed_start = trunk.embed_codes.weight.clone(), trunk.embed_start.clone()
        self.embed_text = trunk.embed_text.weight.clone()
        self.norm, self.depth_norm = trunk.norm.weight.clone(), depth.norm.weight.clone()

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
        with torch.inference_mode():
            codes, probabilities = self._sample(text, seeds, frames, settings)
        return codes.permute(2, 1, 0).clone(), probabilities.permute(2, 1, 0).log()

    def _sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        """-> codes and their probabilities, both [T, K, B]."""
        policy, streams, rows = self.policy, len(self.policy.streams), len(text)
        copies = 1 if settings.guidance_scale == 1.0 else 2
        texts = text if copies == 1 else torch.cat([text, policy.null_text(rows)])
        caches = self._prefix(texts, frames)
        turns = self._turns()
        noise = uniform_noise(seeds, frames, streams).to(text.device)  # [T, K, B, 1]
        codes = torch.empty(frames, streams, rows, dtype=torch.int64, device=text.device)
        probabilities = torch.empty(frames, streams, rows, device=text.device)
        frame = _Frame(self, settings, rows, copies)
        x = self.embed_start.expand(len(texts), -1)
        for t in range(frames):
            place = texts.shape[1] + t
            for cache in caches:
                x = cache.step(x, place, turns[place])
            frame.draw(torch.layer_norm(x, self.norm.shape, self.norm, None, NORM_EPS), noise[t])
            codes[t], probabilities[t] = frame.tokens, frame.chances()
            x = F.embedding_bag((codes[t] + policy.trunk.offsets[:, None]).t(), self.embed_codes, mode="sum")
            x = x if copies == 1 else x.repeat(2, 1)
        return codes, probabilities

    def _prefix(self, texts: Tensor, frames: int) -> list[TemporalCache]:
        """Caches of every temporal block, filled with the texts. Equal texts are computed once."""
        rows, length = texts.shape
        different, row_of = torch.unique(texts, dim=0, return_inverse=True)
        turns = torch.view_as_complex(self.policy.trunk.turns[:length])[:, None]
        x = F.embedding(different, self.embed_text)
        caches = [TemporalCache(block, rows, length + frames, x) for block in self.temporal]
        for cache in caches:
            x = cache.fill(x, row_of, turns, last=cache is caches[-1])
        return caches

    def _turns(self) -> Tensor:
        """Complex [S, H + 2 G, d/2]: one for the values, the rotary turns for queries and keys."""
        turns, block = torch.view_as_complex(self.policy.trunk.turns), self.temporal[0]
        turned = turns[:, None].expand(-1, block.heads + block.key_heads, -1)
        return torch.cat([turned, torch.ones_like(turned[:, : block.key_heads])], dim=1)


class _Frame:
    """The depth transformer over one frame: K tokens from one state."""

    def __init__(self, sampler: Sampler, settings: SamplingSettings, rows: int, copies: int) -> None:
        self.sampler, self.rows, self.copies = sampler, rows, copies
        self.guidance_scale, self.outside = settings.guidance_scale, sampler.policy.depth.outside
        heads = sampler.heads
        self.heads = [PackedLinear(head / settings.temperature) for head in heads]
        self.caches = [DepthCache(block, rows * copies, len(heads), heads) for block in sampler.depth]
        self.probabilities = heads.new_empty(len(heads), rows, heads.shape[1])  # [K, B, V]
        self.tokens = torch.empty(len(heads), rows, dtype=torch.int64, device=heads.device)  # [K, B]
        self.token_columns = list(self.tokens.unsqueeze(-1))

    def chances(self) -> Tensor:
        """Probabilities of the frame's tokens [K, B]."""
        return self.probabilities.gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)

    def draw(self, state: Tensor, noise: Tensor) -> None:
        """state [copies B, D], noise [K, B, 1] -> fills `tokens` and `probabilities`."""
        x = self.caches[0].step(self.sampler.project(state).add_(self.sampler.first_place), 0)
        for k, uniform in enumerate(noise):
            if k:
                x = self._first_block(k)
            for cache in self.caches[1:]:
                x = cache.step(x, k)
            distribution = self._distribution(x, k)
            cumulative = distribution.cumsum(-1)
            # The sum rounds to a little less than one for many rows: times that sum, a uniform number below one stays
            # strictly below it, so an entry is always found. right=True: never one of probability zero.
            uniform = uniform * cumulative[:, -1:]
            torch.searchsorted(cumulative, uniform, right=True, out=self.token_columns[k])

    def _first_block(self, k: int) -> Tensor:
        """The first block's output [copies B, D] at place k > 0."""
        token = self.tokens[k - 1]
        x, heads = self.sampler.tables[k - 1].look_up(token if self.copies == 1 else token.repeat(2))
        return self.sampler.depth[0].attention_out(self.caches[0].attend(heads, k)).add_(x)

    def _distribution(self, x: Tensor, k: int) -> Tensor:
        """x [copies B, D] -> [B, V]. The heads are linear, so guidance may be done before them."""
        norm = self.sampler.depth_norm
        x = torch.layer_norm(x, norm.shape, norm, None, NORM_EPS)
        if self.copies == 2:
            x = torch.lerp(x[self.rows :], x[: self.rows], self.guidance_scale)
        logits = self.heads[k](x)
        if self.outside is not None:
            logits.masked_fill_(self.outside[k], -torch.inf)
        return torch.softmax(logits, dim=-1, out=self.probabilities[k])


def uniform_noise(seeds: Sequence[int], frames: int, streams: int) -> Tensor:
    """One uniform number in [0, 1) a cell, each row from its own generator -> [T, K, B, 1].

    Drawn in the order of sampling, so that a shorter sequence of the same seed is the beginning of a longer one.
    """
    rows = [torch.rand(frames, streams, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows, dim=-1).unsqueeze(-1)
