"""MusicGen's language model: one transformer over the steps of the delay pattern, conditioned through cross-attention.

    step 0 shows nothing (the special token in every codebook); step s shows codebook k of frame s - 1 - delay_k
    the state at step s gives the logits of all that step s + 1 shows

Layers are pre-norm, without biases in their products: self-attention, cross-attention to T5's states, feed-forward with
exact GELU. Under the null condition there is nothing to attend to, and as nothing has a bias, cross-attention then adds
exactly 0: it is left out.

Source: Copet et al., arXiv 2306.05284, sections 2.2 to 2.4.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.layout import Layout, delay_pattern
from codec.musicgen_folder import MusicGenFolder
from codec.musicgen_shapes import MusicGenShapes
from policy.linear import Dense, dense
from policy.musicgen.prompts import PromptEncoder
from policy.musicgen.t5 import PAD
from policy.port import Stream

INIT_STD = 0.02


@dataclass(frozen=True)
class FrozenCopy:
    """A file with text encoder and codec that a policy was saved with: its device, inode, size, time, and the bytes of
    each tensor in it."""

    mark: tuple[int, int, int, int]
    sizes: dict[str, int]


class MusicGen(nn.Module):
    """policy.port.Policy with K acoustic streams. source: the checkpoint, whose other parts are saved with it again."""

    def __init__(self, shapes: MusicGenShapes, prompts: PromptEncoder, source: MusicGenFolder | None = None) -> None:
        super().__init__()
        self.shapes, self.prompts, self.source = shapes, prompts, source
        self.frozen_file: FrozenCopy | None = None
        self.streams = (Stream("acoustic", shapes.entries),) * shapes.codebooks
        self.frame_rate_hz = shapes.frame_rate_hz
        self.trunk = MusicGenTrunk(shapes, prompts)
        self.heads = Dense(shapes.width, shapes.codebooks * shapes.entries)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> T5's tokens [B, L] int64, L the longest. An empty prompt gives the null condition."""
        return self.prompts.tokens(prompts).to(self.heads.weight.device)

    def null_text(self, rows: int) -> Tensor:
        """The null condition [rows, 1]."""
        return self.encode_text([""]).expand(rows, -1)

    def forward(
        self,
        codes: Tensor,
        text: Tensor,
        read: Callable[[Tensor], Any] | None = None,
        guidance_scale: float = 1.0,
    ) -> Any:
        """codes [B, K, T], text [B, L] -> logits [B, K, T, V] float32 of every cell given its past; with `read`, what
        it makes of the guided states [B, S, D], of which `readout` gives the logits.

        Guidance is linear, and so are the heads: logits of guided states are guided logits.
        Raises ValueError where the codes have another number of streams or more frames than there are positions.
        """
        self.check_codes(codes)
        frames = codes.shape[2]
        steps = frames + max(self.shapes.delays)
        states = self.trunk.hidden(codes, text, steps)
        if guidance_scale != 1.0:
            null = self.trunk.hidden(codes, self.null_text(len(codes)), steps)
            states = null + guidance_scale * (states - null)
        return self.readout.logits(states, 0, frames) if read is None else read(states)

    @property
    def readout(self) -> MusicGenReadout:
        """States to logits."""
        return MusicGenReadout(self.heads, self.shapes.delays)

    def check_codes(self, codes: Tensor) -> None:
        """Raises ValueError for codes that the model does not take."""
        if codes.shape[1] != len(self.streams) or not 1 <= codes.shape[2] <= self.shapes.max_frames:
            allowed = f"[B, {len(self.streams)}, 1 to {self.shapes.max_frames}]"
            raise ValueError(f"codes: got shape {list(codes.shape)}, allowed {allowed}")

    def set_dropout(self, probability: float) -> None:
        """Dropout on residual branches while in training mode. Zero unless set, and never stored."""
        for layer in self.trunk.blocks:
            layer.dropout = probability


class MusicGenReadout:
    """policy.port.Readout: one head for each codebook, which reads the states as many steps later as it lags.

    A pass may change where the heads' weight lies; it is asked for at each use.
    """

    def __init__(self, heads: nn.Linear, delays: tuple[int, ...]) -> None:
        self.heads, self.delays = heads, delays

    def logits(self, states: Tensor, start: int, stop: int) -> Tensor:
        weight = self.heads.weight
        states = states.to(weight.dtype)
        heads = weight.unflatten(0, (len(self.delays), -1))
        cells = [
            dense(states[:, start + late : stop + late], head) for late, head in zip(self.delays, heads, strict=True)
        ]
        return torch.stack(cells, dim=1).float()

    def copied(self, device: str, dtype: torch.dtype) -> MusicGenReadout:
        heads = copy.deepcopy(self.heads).requires_grad_(False)
        return MusicGenReadout(heads.to(device, dtype), self.delays)


class MusicGenTrunk(nn.Module):
    """Codes and text -> states. `forward` gives one for each frame, which knows the frames before it only."""

    positions: Tensor

    def __init__(self, shapes: MusicGenShapes, prompts: PromptEncoder) -> None:
        super().__init__()
        self.shapes, self.prompts = shapes, prompts
        width = shapes.width
        self.embed_codes = nn.ModuleList(nn.Embedding(shapes.entries + 1, width) for _ in range(shapes.codebooks))
        self.project_text = nn.Linear(shapes.text_width, width) if shapes.project_text else None
        self.layers = nn.ModuleList(Layer(width, shapes.heads, shapes.hidden) for _ in range(shapes.layers))
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
        x = self.embed(sequence) + self.positions[:steps].to(self.norm.weight.dtype)
        condition = self.condition(text)
        mask = None if condition is None else attendable(text)
        for layer in self.blocks:
            x = layer(x, condition, mask)
        return self.norm(x)

    def layout(self, frames: int) -> Layout:
        """The delay pattern of clips of so many frames."""
        return delay_pattern(self.shapes.codebooks, frames, self.shapes.delays)

    def embed(self, sequence: Tensor) -> Tensor:
        """tokens [B, K, S] -> [B, S, D], the sum over codebooks."""
        parts = [table(sequence[:, k]) for k, table in enumerate(self.embed_codes)]
        return sum(parts[1:], parts[0])

    def condition(self, text: Tensor) -> Tensor | None:
        """text [B, L] -> T5's states in the decoder's width [B, L, D], 0 at the pads; None if no row has a prompt."""
        if not bool((text != PAD).any()):
            return None
        states = self.prompts.states(text).to(self.norm.weight.dtype)
        if self.project_text is not None:
            states = self.project_text(states)
        return states * (text != PAD).unsqueeze(-1)


class Layer(nn.Module):
    """x + self-attention(norm(x)), then + cross-attention(norm(x)), then + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, 0.0
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = Dense(width, 3 * width)
        self.attention_out = Dense(width, width)
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
