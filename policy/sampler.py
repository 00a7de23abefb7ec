"""Samples a TinyMusicLM frame by frame, with everything laid out beforehand.

What makes it fast on a CPU: weights packed once by oneDNN; keys and values in caches of fixed size, few key heads;
the text prefix computed once for each different text; attention inside the frame as products and sums over the
leading dimension; the first depth layer's projections of the K - 1 token inputs looked up in a table; one uniform
number a cell instead of a noise value an entry; guidance on the last hidden state, before the heads.

A cell is drawn by inverting its distribution function: the entry whose slice of [0, 1) holds the row's next uniform
number. A row's numbers come from its own generator, so they depend on its seed alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from policy.linear import onednn_serves
from policy.port import SamplingSettings
from policy.tiny_musiclm import Block, TinyMusicLM, rotate

PACK_ROWS = 64  # the number of rows that oneDNN's packing is chosen for; any other works
NORM_EPS = 1e-5


class Sampler:
    """Sampling of one policy. Call `refresh` after its weights changed."""

    def __init__(self, policy: TinyMusicLM) -> None:
        self.policy = policy
        self.refresh()

    def refresh(self) -> None:
        """Takes over the policy's present weights."""
        with torch.no_grad():
            policy = self.policy
            self._temporal = [PackedBlock(layer) for layer in policy.trunk.layers]
            self._depth = [PackedBlock(layer) for layer in policy.depth.layers]
            self._project = PackedLinear(policy.depth.project.weight)
            self._heads = [PackedLinear(head.t()) for head in policy.depth.heads]
            self._tables = _first_layer_tables(policy)
            self._first_place = policy.depth.embed_place[0].clone()

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
        return codes.permute(2, 0, 1).clone(), probabilities.permute(2, 0, 1).log()

    def _sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        policy, streams = self.policy, len(self.policy.streams)
        guided = settings.guidance_scale != 1.0
        texts = torch.cat([text, policy.null_text(len(text))]) if guided else text
        copies = 2 if guided else 1
        caches = self._prefix(texts, frames)
        noise = uniform_noise(seeds, frames, streams).to(text.device)  # [T, K, B, 1]
        codes = torch.empty(streams, frames, len(text), dtype=torch.int64, device=text.device)
        probabilities = torch.empty(streams, frames, len(text), device=text.device)
        frame = _Frame(self, settings, len(text), copies)
        x = policy.trunk.embed_start.expand(len(texts), -1)
        turns = torch.view_as_complex(policy.trunk.turns)
        offsets = policy.trunk.offsets
        for t in range(frames):
            place = texts.shape[1] + t
            for layer, cache in zip(self._temporal, caches, strict=True):
                x = layer.temporal_step(x, cache, place, turns[place])
            state = torch.layer_norm(x, x.shape[-1:], policy.trunk.norm.weight, None, NORM_EPS)
            chosen, chances = frame.draw(state, noise[t])
            codes[:, t], probabilities[:, t] = chosen, chances
            x = F.embedding_bag(chosen.t() + offsets, policy.trunk.embed_codes.weight, mode="sum")
            x = x.repeat(copies, 1) if guided else x
        return codes, probabilities

    def _prefix(self, texts: Tensor, frames: int) -> list[Cache]:
        """Caches of every temporal layer, filled with the texts. Equal texts are computed once."""
        trunk, length = self.policy.trunk, texts.shape[1]
        different, row_of = torch.unique(texts, dim=0, return_inverse=True)
        turns = torch.view_as_complex(trunk.turns[:length])
        x = trunk.embed_text(different)
        caches = []
        for layer in trunk.layers:
            query, key, value = layer.start(x, turns)
            x = layer.finish(x, query, key, value)
            caches.append(Cache.filled(key[row_of], value[row_of], length + frames))
        return caches


class Cache(NamedTuple):
    """Keys and values of one temporal layer, [B G, S, d], S the longest that the sequence gets."""

    keys: Tensor
    values: Tensor

    @classmethod
    def filled(cls, key: Tensor, value: Tensor, length: int) -> Cache:
        """key, value [B, G, L, d] in the first L places of `length`."""
        made = []
        for part in (key, value):
            whole = part.new_empty(part.shape[0] * part.shape[1], length, part.shape[3])
            whole[:, : part.shape[2]] = part.flatten(0, 1)
            made.append(whole)
        return cls(*made)


class _Frame:
    """The depth transformer over one frame: K tokens from one state."""

    def __init__(self, sampler: Sampler, settings: SamplingSettings, rows: int, copies: int) -> None:
        self.layers, self.tables, self.heads = sampler._depth, sampler._tables, sampler._heads
        self.project, self.first_place = sampler._project, sampler._first_place
        depth = sampler.policy.depth
        self.norm, self.width, self.streams = depth.norm.weight, len(depth.norm.weight), len(depth.heads)
        self.outside, self.settings, self.rows, self.copies = depth.outside, settings, rows, copies
        shape = (self.streams, 2, rows * copies, self.layers[0].heads, self.layers[0].head_width)
        self.caches = [self.norm.new_empty(shape) for _ in self.layers]

    def draw(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """state [copies B, D], noise [K, B, 1] -> tokens [K, B] and their probabilities [K, B]."""
        tokens: list[Tensor] = []
        chances: list[Tensor] = []
        x = self.project(state) + self.first_place
        first = None
        for k in range(self.streams):
            if k:
                x, first = self._look_up(k, tokens[-1])
            for layer, cache in zip(self.layers, self.caches, strict=True):
                x = layer.depth_step(x, cache, k, first)
                first = None
            probabilities = self._probabilities(x, k)
            token = torch.searchsorted(probabilities.cumsum(-1), noise[k], right=True)
            chances.append(probabilities.gather(-1, token)[:, 0])
            tokens.append(token[:, 0])
        return torch.stack(tokens), torch.stack(chances)

    def _look_up(self, k: int, token: Tensor) -> tuple[Tensor, Tensor]:
        """The input of place k and the first layer's projections of it."""
        found = self.tables[k - 1].index_select(0, token if self.copies == 1 else token.repeat(self.copies))
        return found[:, : self.width], found[:, self.width :]

    def _probabilities(self, x: Tensor, k: int) -> Tensor:
        """x [copies B, D] -> [B, V]. The heads are linear, so guidance may be done before them."""
        x = torch.layer_norm(x, (self.width,), self.norm, None, NORM_EPS)
        if self.copies == 2:
            x = torch.lerp(x[self.rows :], x[: self.rows], self.settings.guidance_scale)
        logits = self.heads[k](x).div_(self.settings.temperature)
        if self.outside is not None:
            logits.masked_fill_(self.outside[k], -torch.inf)
        return torch.softmax(logits, dim=-1)


class PackedLinear:
    """x -> x W^T, or gelu of it, with a weight that oneDNN has laid out for itself."""

    def __init__(self, weight: Tensor, gelu: bool = False) -> None:
        self.gelu, self.packed = gelu, onednn_serves(weight)
        weight = weight.detach().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS) if self.packed else weight.clone()
        self.after = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.product = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return self.product(x, self.weight, None, *self.after)
        x = F.linear(x, self.weight)
        return F.gelu(x, approximate="tanh") if self.gelu else x


class PackedBlock:
    """One block's weights, and its step over one place; the attention's scale is in the queries' weights."""

    def __init__(self, block: Block) -> None:
        self.heads, self.key_heads, self.head_width = block.heads, block.key_heads, block.head_width
        self.width = (block.heads * block.head_width,)
        self.norm_attention = block.norm_attention.weight.detach().clone()
        self.norm_hidden = block.norm_hidden.weight.detach().clone()
        self.qkv = PackedLinear(_scaled_queries(block))
        self.attention_out = PackedLinear(block.attention_out.weight)
        self.hidden = PackedLinear(block.hidden.weight, gelu=True)
        self.hidden_out = PackedLinear(block.hidden_out.weight)

    def temporal_step(self, x: Tensor, cache: Cache, place: int, turns: Tensor) -> Tensor:
        """x [B, D] at `place`, turns complex [d/2] -> [B, D]; keys and values are added to the cache."""
        heads = self._project(x)  # [B, H + 2 G, d]
        turned = rotate(heads[:, : -self.key_heads], turns)
        cache.keys[:, place] = turned[:, self.heads :].reshape(-1, self.head_width)
        cache.values[:, place] = heads[:, -self.key_heads :].reshape(-1, self.head_width)
        query = turned[:, : self.heads].reshape(len(cache.keys), -1, self.head_width)  # [B G, H / G, d]
        scores = torch.bmm(query, cache.keys[:, : place + 1].transpose(1, 2))
        attended = torch.bmm(scores.softmax(-1), cache.values[:, : place + 1])
        return self._finish(x, attended.view(len(x), -1))

    def depth_step(self, x: Tensor, cache: Tensor, place: int, projected: Tensor | None) -> Tensor:
        """x [B, D] at `place` of the frame, cache [K, 2, B, H, d] -> [B, D]. `projected`: looked-up projections."""
        heads = self._project(x) if projected is None else projected.unflatten(-1, (-1, self.head_width))
        if place == 0:
            cache[0] = heads[:, self.heads :].unflatten(1, (2, -1)).transpose(0, 1)
            return self._finish(x, cache[0, 1].flatten(1))  # one place: it attends to itself
        cache[place] = heads[:, self.heads :].unflatten(1, (2, -1)).transpose(0, 1)
        scores = (cache[: place + 1, 0] * heads[:, : self.heads]).sum(-1, keepdim=True)  # [k + 1, B, H, 1]
        attended = (cache[: place + 1, 1] * scores.softmax(0)).sum(0)
        return self._finish(x, attended.view(len(x), -1))

    def _project(self, x: Tensor) -> Tensor:
        normed = torch.layer_norm(x, self.width, self.norm_attention, None, NORM_EPS)
        return self.qkv(normed).view(len(x), -1, self.head_width)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_out(attended).add_(x)
        normed = torch.layer_norm(x, self.width, self.norm_hidden, None, NORM_EPS)
        return self.hidden_out(self.hidden(normed)).add_(x)


def uniform_noise(seeds: Sequence[int], frames: int, streams: int) -> Tensor:
    """One uniform number in [0, 1) a cell, each row from its own generator -> [T, K, B, 1].

    Drawn in the order of sampling, so that a shorter sequence of the same seed is the beginning of a longer one.
    """
    rows = [torch.rand(frames, streams, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows, dim=-1).unsqueeze(-1)


def _scaled_queries(block: Block) -> Tensor:
    weight = block.qkv.weight.detach().clone()
    weight[: block.heads * block.head_width] *= block.head_width**-0.5
    return weight


def _first_layer_tables(policy: TinyMusicLM) -> list[Tensor]:
    """For each stream but the last: what its tokens are as depth inputs, and the first layer's projections of that.

    -> K - 1 tensors [V_k, D + 3 D].
    """
    depth, first = policy.depth, policy.depth.layers[0]
    tables = []
    for k, stream in enumerate(policy.streams[:-1]):
        rows = depth.embed_codes.weight[int(depth.offsets[k]) :][: stream.size] + depth.embed_place[k + 1]
        projected = F.linear(first.norm_attention(rows), _scaled_queries(first))
        tables.append(torch.cat([rows, projected], dim=1).detach())
    return tables
