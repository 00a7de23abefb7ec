"""The base policy: one autoregressive stage over frames of semantic and acoustic tokens.

A temporal transformer runs across frames, a depth transformer inside each frame; the text is a prefix of the temporal
sequence, padded to a fixed length with a learnt token, so that there are no masks and the null condition is all pads:

    temporal sequence   text_0 ... text_{L-1}, start, frame_0, ..., frame_{T-2}     (a frame = sum of its K embeddings)
    temporal output     h_t at the place of frame t - 1: all that is known before frame t
    depth sequence      h_t, code_{t,0}, ..., code_{t,K-2}  ->  logits of code_{t,0}, ..., code_{t,K-1}

Source: MusicRL, section 3.1 (one stage, interleaved semantic and coarse acoustic tokens, hierarchical transformer);
RQ-Transformer (arXiv 2203.01941), section 3.2 (temporal and depth). Positions are rotary (arXiv 2104.09864).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy.compiled.attention import MOST_PLACES
from policy.linear import Linear, linear
from policy.operations import gelu, norm, self_attention
from policy.port import Stream
from policy.text import TextTokenizer

ROTARY_BASE = 1000.0  # wavelengths from 6 to some 5,000 frames
INIT_STD = 0.02


@dataclass(frozen=True)
class TinyMusicLMConfig:
    """Shapes. `max_frames` is 10 s; sequences of the training material are shorter (see the model card)."""

    streams: tuple[Stream, ...] = (Stream("semantic", 256), *(Stream("acoustic", 256) for _ in range(4)))
    frame_rate_hz: float = 25.0
    max_frames: int = 250
    temporal_width: int = 192
    temporal_layers: int = 4
    temporal_heads: int = 4
    temporal_key_heads: int = 1
    temporal_hidden: int = 640
    depth_width: int = 128
    depth_layers: int = 2
    depth_heads: int = 4
    depth_hidden: int = 512


class TinyMusicLM(nn.Module):
    """policy.port.Policy with K streams. `trunk` alone gives the states that a value network reads."""

    def __init__(self, config: TinyMusicLMConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        if len(config.streams) > MOST_PLACES:
            raise ValueError(f"streams: got {len(config.streams)}, allowed at most {MOST_PLACES}")
        self.config, self.tokenizer = config, tokenizer
        self.streams, self.frame_rate_hz = config.streams, config.frame_rate_hz
        self.trunk = TemporalTrunk(config, tokenizer.size, tokenizer.length)
        self.depth = DepthTransformer(config)
        self.apply(_initialise)
        _scale_residual_outputs(self)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, L] int64. An empty prompt gives the null condition."""
        return self.tokenizer(prompts).to(self.trunk.embed_start.device)

    def null_text(self, rows: int) -> Tensor:
        """The null condition [rows, L]."""
        return self.encode_text([""]).expand(rows, -1)

    def null_of(self, text: Tensor) -> Tensor:
        """The null condition of any texts [B, L]: the same."""
        return self.null_text(len(text))

    def temporal_states(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T], text [B, L] -> [B, T, D]; state t knows the text and the frames before t."""
        return self.trunk(codes, text)

    def forward(self, codes: Tensor, text: Tensor, *, show: Callable[[Tensor], Any] | None = None) -> Tensor:
        """codes [B, K, T], text [B, L] -> logits [B, K, T, V] of every cell given its past; -inf past a stream's size.

        show: is called with the trunk's states [B, T, D].
        Raises ValueError where the codes have another number of streams or more than `max_frames` frames.
        """
        if codes.shape[1] != len(self.streams) or codes.shape[2] > self.config.max_frames:
            allowed = f"[B, {len(self.streams)}, at most {self.config.max_frames}]"
            raise ValueError(f"codes: got shape {list(codes.shape)}, allowed {allowed}")
        states = self.trunk(codes, text)
        if show is not None:
            show(states)
        return self.depth(states, codes)

    def set_dropout(self, probability: float) -> None:
        """Dropout on residual branches while in training mode. Zero unless set, and never stored: pretraining only."""
        for module in self.modules():
            if isinstance(module, Block):
                module.dropout = probability


class TemporalTrunk(nn.Module):
    """Text prefix and past frames -> one state a frame."""

    offsets: Tensor
    turns: Tensor

    def __init__(self, config: TinyMusicLMConfig, text_size: int, text_length: int) -> None:
        super().__init__()
        width = config.temporal_width
        self.text_length = text_length
        self.embed_text = nn.Embedding(text_size, width)
        self.embed_codes = nn.Embedding(sum(stream.size for stream in config.streams), width)
        self.embed_start = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(
            Block(width, config.temporal_heads, config.temporal_key_heads, config.temporal_hidden)
            for _ in range(config.temporal_layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.register_buffer("offsets", stream_offsets(config.streams), persistent=False)
        turns = rotary_turns(text_length + config.max_frames, width // config.temporal_heads)
        self.register_buffer("turns", turns, persistent=False)  # [S, d/2, 2]

    @property
    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def forward(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T], text [B, L] -> [B, T, D]."""
        x = torch.cat([self.embed_text(text), self._frames(codes)], dim=1)  # [B, L + T, D]
        turns = torch.view_as_complex(self.turns[: x.shape[1]])
        for block in self.layers:
            x = block(x, turns)
        return norm(x[:, self.text_length :], self.norm.weight)

    def _frames(self, codes: Tensor) -> Tensor:
        batch, streams, frames = codes.shape
        start = self.embed_start.expand(batch, 1, -1)
        if frames == 1:
            return start
        past = (codes[:, :, :-1] + self.offsets[:, None]).transpose(1, 2).reshape(-1, streams)  # [B (T-1), K]
        summed = F.embedding_bag(past, self.embed_codes.weight, mode="sum")
        return torch.cat([start, summed.view(batch, frames - 1, -1)], dim=1)


class DepthTransformer(nn.Module):
    """A frame's state and its earlier streams -> logits of its next stream.

    The first block is parallel and a token's place is part of its embedding: so all that this block makes of a token
    but the attention depends on the token alone, and the sampler looks it up.
    """

    offsets: Tensor
    outside: Tensor | None

    def __init__(self, config: TinyMusicLMConfig) -> None:
        super().__init__()
        width, sizes = config.depth_width, [stream.size for stream in config.streams]
        self.project = Linear(config.temporal_width, width)
        self.embed_codes = nn.Embedding(sum(sizes[:-1]), width)  # the last stream is never an input here
        self.embed_place = nn.Parameter(torch.zeros(len(sizes), width))
        self.layers = nn.ModuleList(
            Block(width, config.depth_heads, config.depth_heads, config.depth_hidden, parallel=layer == 0)
            for layer in range(config.depth_layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.heads = nn.Parameter(torch.empty(len(sizes), width, max(sizes)))
        self.register_buffer("offsets", stream_offsets(config.streams), persistent=False)
        self.register_buffer("outside", outside_of_streams(config.streams), persistent=False)

    @property
    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def forward(self, states: Tensor, codes: Tensor) -> Tensor:
        """states [B, T, D], codes [B, K, T] -> logits [B, K, T, V]."""
        batch, streams, frames = codes.shape
        first = self.project(states).view(batch * frames, 1, -1)
        earlier = (codes[:, :-1] + self.offsets[:-1, None]).transpose(1, 2).reshape(batch * frames, streams - 1)
        x = torch.cat([first, self.embed_codes(earlier)], dim=1) + self.embed_place  # [B T, K, D]
        for block in self.layers:
            x = block(x, None)
        normed = norm(x, self.norm.weight).transpose(0, 1).contiguous()  # [K, B T, D]
        logits = torch.stack([linear(part, head.t()) for part, head in zip(normed, self.heads, strict=True)])
        logits = logits.view(streams, batch, frames, -1).transpose(0, 1)
        return logits if self.outside is None else logits.masked_fill(self.outside[:, None], -torch.inf)


class Block(nn.Module):
    """Pre-norm causal attention and feed-forward, without biases; queries, keys and values from one product.

        sequential   y = x + attention(norm(x)),   y + feed_forward(norm'(y))
        parallel     x + attention(norm(x)) + feed_forward(norm(x))

    Fewer key heads than query heads (a divisor) make the sampler's cache and its reading smaller by as much.
    Source: grouped queries, arXiv 2305.13245; parallel blocks, arXiv 2204.02311, section 2.
    """

    def __init__(self, width: int, heads: int, key_heads: int, hidden: int, parallel: bool = False) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_width = heads, key_heads, width // heads
        self.dropout = 0.0
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = Linear(width, (heads + 2 * key_heads) * self.head_width)
        self.attention_out = Linear(width, width)
        self.norm_hidden = None if parallel else nn.LayerNorm(width, bias=False)
        self.hidden = Linear(width, hidden)
        self.hidden_out = Linear(hidden, width)

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """x [B, S, D], turns complex [S, d/2] or None -> [B, S, D]."""
        normed = norm(x, self.norm_attention.weight)
        attended = self._drop(self.attention_out(self._attend(normed, turns)))
        if self.norm_hidden is None:  # in this order: the sampler looks up what does not hang on other places
            return x + self._drop(self.feed_forward(normed)) + attended
        y = x + attended
        return y + self._drop(self.feed_forward(norm(y, self.norm_hidden.weight)))

    def feed_forward(self, normed: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.hidden_out(gelu(self.hidden(normed)))

    def _attend(self, normed: Tensor, turns: Tensor | None) -> Tensor:
        return self_attention(self.qkv(normed).unflatten(-1, (-1, self.head_width)), turns, self.heads)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept: it must serve training too, whoever asks first
def rotary_turns(positions: int, width: int) -> Tensor:
    """exp(i * position / base^(2j/d)) as real pairs [positions, d/2, 2].

    Source: arXiv 2104.09864, equation 34. Computed in float64, so that every machine has the same table.
    """
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def stream_offsets(streams: Sequence[Stream]) -> Tensor:
    """[K]: where each stream's rows begin in one table of embeddings."""
    sizes = torch.tensor([0, *(stream.size for stream in streams)])
    return sizes.cumsum(0)[:-1]


def outside_of_streams(streams: Sequence[Stream]) -> Tensor | None:
    """[K, V] bool: entries that the stream does not have; None where all streams are of one size."""
    sizes = torch.tensor([stream.size for stream in streams])
    return None if len(set(sizes.tolist())) == 1 else torch.arange(int(sizes.max())) >= sizes[:, None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    for name in ("embed_start", "embed_place", "heads"):
        if isinstance(getattr(module, name, None), nn.Parameter):
            nn.init.normal_(getattr(module, name), std=INIT_STD)


def _scale_residual_outputs(policy: TinyMusicLM) -> None:
    """Residual branches start small, by depth. Source: GPT-2, section 2.3."""
    for part in (policy.trunk, policy.depth):
        for block in part.blocks:
            with torch.no_grad():
                block.attention_out.weight /= (2 * len(part.blocks)) ** 0.5
                block.hidden_out.weight /= (2 * len(part.blocks)) ** 0.5
