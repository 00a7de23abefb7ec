"""The layers of a MusicGen's language model, and what they work on: tokens and text to states.

Layers are pre-norm, without biases in their products: self-attention, cross-attention to T5's states, feed-forward with
exact GELU. Under the null condition there is nothing to attend to, and as nothing has a bias, cross-attention then adds
exactly 0: it is left out. The layers of a MusicGen-Melody have no cross-attention (policy.musicgen.melody).

Source: Copet et al., arXiv 2306.05284, sections 2.2 to 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.layout import Layout, delay_pattern
from codec.musicgen_shapes import MusicGenShapes
from policy.linear import Dense
from policy.musicgen.prompts import PromptEncoder
from policy.musicgen.t5 import PAD


class MusicGenTrunk(nn.Module):
    """Codes and text -> states. `forward` gives one for each frame, which knows the frames before it only."""

    positions: Tensor

    def __init__(self, shapes: MusicGenShapes, prompts: PromptEncoder) -> None:
        super().__init__()
        self.shapes, self.prompts = shapes, prompts
        width = shapes.width
        self.embed_codes = nn.ModuleList(nn.Embedding(shapes.entries + 1, width) for _ in range(shapes.codebooks))
        self.project_text = nn.Linear(shapes.text_width, width) if shapes.project_text else None
        crossed = not shapes.melody
        self.layers = nn.ModuleList(Layer(width, shapes.heads, shapes.hidden, crossed) for _ in range(shapes.layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", torch.empty(shapes.positions, width), persistent=False)
        self.set_positions()

    def set_positions(self) -> None:
        """Computes the table of positions, which no checkpoint holds."""
        places, width = self.positions.shape
        self.positions = sinusoids(places, width).to(self.positions.device)

    @property
    def blocks(self) -> list[Layer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def forward(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T], text [B, L] -> [B, T, D]; state t knows the text and frames before t, never one of frame t.

        Because of the delays it does not know all of those: codebook k of frame t - 1 is sampled k steps later.
        """
        return self.hidden(codes, text, codes.shape[2])

    def hidden(self, codes: Tensor, text: Tensor, steps: int) -> Tensor:
        """The states of the first `steps` steps [B, S, D]."""
        sequence = self.layout(codes.shape[2]).to_sequence(codes, self.shapes.entries)[..., :steps]
        return self.through(self.embed(sequence), text)

    def through(self, x: Tensor, text: Tensor) -> Tensor:
        """What the steps show, embedded [B, S, D], and text [B, L] -> their states [B, S, D]."""
        x = x + self.places(x.shape[1])
        condition = self.condition(text)
        mask = None if condition is None else attendable(text)
        for layer in self.blocks:
            x = layer(x, condition, mask)
        return self.norm(x)

    def places(self, count: int) -> Tensor:
        """The first rows of the table of positions, in the type of the weights."""
        return self.positions[:count].to(self.norm.weight.dtype)

    def null_of(self, text: Tensor) -> Tensor:
        """No words at all, which is nothing to attend to: [B, 1]."""
        return torch.full_like(text[:, :1], PAD)

    def layout(self, frames: int) -> Layout:
        """The delay pattern of clips of so many frames."""
        return delay_pattern(self.shapes.codebooks, frames, self.shapes.delays)

    def embed(self, sequence: Tensor) -> Tensor:
        """tokens [B, K, S] -> [B, S, D], the sum over codebooks."""
        parts = [table(sequence[:, k]) for k, table in enumerate(self.embed_codes)]
        return sum(parts[1:], parts[0])

    def condition(self, text: Tensor) -> Tensor | None:
        """text [B, L] -> T5's states in the decoder's width [B, L, D], 0 at the pads; None if no row has a prompt."""
        return self.projected(text) if bool((text != PAD).any()) else None

    def projected(self, text: Tensor) -> Tensor:
        """text [B, L] -> T5's states in the decoder's width [B, L, D], 0 at the pads."""
        states = self.prompts.states(text).to(self.norm.weight.dtype)
        if self.project_text is not None:
            states = self.project_text(states)
        return states * (text != PAD).unsqueeze(-1)


class Layer(nn.Module):
    """x + self-attention(norm(x)), then + cross-attention(norm(x)), then + feed-forward(norm(x)).

    crossed: whether it has cross-attention.
    """

    def __init__(self, width: int, heads: int, hidden: int, crossed: bool = True) -> None:
        super().__init__()
        self.heads, self.crossed, self.dropout = heads, crossed, 0.0
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = Dense(width, 3 * width)
        self.attention_out = Dense(width, width)
        if crossed:
            self.norm_cross = nn.LayerNorm(width)
            self.cross_query = Dense(width, width)
            self.cross_key_value = Dense(width, 2 * width)
            self.cross_out = Dense(width, width)
        self.norm_hidden = nn.LayerNorm(width)
        self.hidden = Dense(width, hidden)
        self.hidden_out = Dense(hidden, width)

    def forward(self, x: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        """x [B, S, D], condition [B, L, D] or None, mask bool [B, 1, 1, L] -> [B, S, D]."""
        query, key, value = split_heads(self.qkv(self.norm_attention(x)), 3, self.heads)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self._drop(self.attention_out(join_heads(attended)))
        if condition is not None:
            x = x + self._drop(self.cross(x, *self.cross_keys(condition), mask))
        return x + self._drop(self.feed_forward(x))

    def cross_keys(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """condition [B, L, D] -> keys and values [B, H, L, d]."""
        key, value = split_heads(self.cross_key_value(condition), 2, self.heads)
        return key, value

    def cross(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, S, D] -> what cross-attention adds to it."""
        (query,) = split_heads(self.cross_query(self.norm_cross(x)), 1, self.heads)
        return self.cross_out(join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """What the feed-forward part adds to x [..., D]."""
        return self.hidden_out(F.gelu(self.hidden(self.norm_hidden(x))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def attendable(text: Tensor) -> Tensor:
    """text [B, L] -> bool [B, 1, 1, L]: the places to attend to. A row of pads keeps them all: its values are 0."""
    known = text != PAD
    return (known | ~known.any(-1, keepdim=True))[:, None, None]


def split_heads(x: Tensor, parts: int, heads: int) -> Iterable[Tensor]:
    """[B, S, parts H d] -> `parts` times [B, H, S, d]: views, whose gradients are put together in one copy."""
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1)]


def join_heads(x: Tensor) -> Tensor:
    """[B, H, S, d] -> [B, S, H d]."""
    return x.transpose(1, 2).flatten(2)


def sinusoids(places: int, width: int) -> Tensor:
    """[S, D]: cosines, then sines, of place * 10000^(-i / (D/2 - 1)), i = 0 .. D/2 - 1."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(places, dtype=torch.float32)[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)
