"""A policy's weights laid out for sampling on a CPU, and the steps over one place that use them.

They run the kernels that policy.tiny_musiclm runs over whole sequences, and sum in its order, so that their states are
equal to the bit. Weights are shared and never change; the buffers that steps write to belong to one call of the
sampler. Arrays are float32; R rows, D width. Between blocks a state is handed on as two summands for the next norm.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policy.compiled import attention, layers
from policy.compiled.product import pack, product
from policy.compiled.simd import Floats, Integers
from policy.linear import linear
from policy.operations import norm
from policy.tiny_musiclm import Block, DepthTransformer

State = tuple[Floats, Floats]  # two summands [R, D], the second may be empty


def alone(x: Floats) -> State:
    """A state of one summand."""
    return x, x[:0]


def as_array(x: Tensor) -> Floats:
    """A copy of a weight."""
    return np.array(x.detach().cpu().numpy(), np.float32, order="C")


class PackedLinear:
    """y = x W^T."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs = len(weight)
        self.panels = pack(as_array(weight))

    def buffer(self, rows: int) -> Floats:
        """Room for y [R, O]."""
        return np.empty((rows, self.outputs), np.float32)

    def __call__(self, x: Floats, out: Floats) -> Floats:
        """x [R, I] -> out [R, O]."""
        product(x, self.panels, out)
        return out


class PackedBlock:
    """One block's weights."""

    def __init__(self, block: Block) -> None:
        self.heads, self.key_heads, self.head_width = block.heads, block.key_heads, block.head_width
        self.norm_attention = as_array(block.norm_attention.weight)
        self.norm_hidden = None if block.norm_hidden is None else as_array(block.norm_hidden.weight)
        self.qkv = PackedLinear(block.qkv.weight)
        self.attention_out = PackedLinear(block.attention_out.weight)
        self.hidden = PackedLinear(block.hidden.weight)
        self.hidden_out = PackedLinear(block.hidden_out.weight)


class Norm:
    """The sum of a state's parts, and its layer norm."""

    def __init__(self, weight: Floats, rows: int) -> None:
        self.weight = weight
        self.sum, self.normed = (np.empty((rows, len(weight)), np.float32) for _ in range(2))
        self.moments = np.empty((rows, 2), np.float32)

    def __call__(self, state: State) -> tuple[Floats, Floats]:
        """-> the sum and the norm [R, D], valid until the next call."""
        x, added = state
        y = self.sum if added.size else x
        layers.norm(x, added, self.weight, y, self.normed, self.moments)
        return y, self.normed


class BlockSteps:
    """One block over R rows, but for its attention."""

    def __init__(self, block: PackedBlock, rows: int) -> None:
        self.block, self.rows = block, rows
        self.norm_attention = Norm(block.norm_attention, rows)
        self.norm_hidden = None if block.norm_hidden is None else Norm(block.norm_hidden, rows)
        self.heads, self.projected = block.qkv.buffer(rows), block.attention_out.buffer(rows)
        self.hidden, self.out = block.hidden.buffer(rows), block.hidden_out.buffer(rows)
        self.flat_heads, self.flat_hidden = self.heads.reshape(-1), self.hidden.reshape(-1)

    def start(self, state: State) -> tuple[Floats, Floats]:
        """-> the state summed and normed; `heads` gets its queries, keys and values [R, (H + 2 G) d]."""
        x, normed = self.norm_attention(state)
        self.block.qkv(normed, self.heads)
        return x, normed

    def finish(self, x: Floats, normed: Floats, attended: Floats) -> State:
        """The block's input, its normed input, its attention's result [R, H d] -> its output."""
        projected = self.block.attention_out(attended, self.projected)
        if self.norm_hidden is None:
            out = self._feed_forward(normed)
            out += x
            return out, projected
        x, normed = self.norm_hidden((x, projected))
        return x, self._feed_forward(normed)

    def _feed_forward(self, normed: Floats) -> Floats:
        hidden = self.block.hidden(normed, self.hidden)
        layers.gelu(self.flat_hidden, self.flat_hidden)
        return self.block.hidden_out(hidden, self.out)


class TemporalSteps(BlockSteps):
    """One temporal block, place by place, with a cache of keys and values."""

    def __init__(self, block: PackedBlock, rows: int, turns: Floats, places: int = 1) -> None:
        """turns [S, d/2, 2], of all places that there will be; `places` are taken in one step."""
        super().__init__(block, rows * places)
        self.turns = turns
        shapes = attention.sequence_cache_shapes(rows, block.key_heads, len(turns), block.head_width)
        self.keys, self.values, self.scratch = (np.zeros(shape, np.float32) for shape in shapes)
        self.attended = np.empty((rows, places, block.heads, block.head_width), np.float32)
        self.flat_attended = self.attended.reshape(rows * places, -1)

    def attend(self, state: State, place: int) -> tuple[Floats, Floats, Floats]:
        """State [R S, D] at the places from `place` on -> what `finish` takes."""
        x, normed = self.start(state)
        cache = self.keys, self.values, self.scratch
        attention.attend_sequence(self.flat_heads, self.turns, place, *cache, self.attended)
        return x, normed, self.flat_attended

    def step(self, state: State, place: int) -> State:
        """State [R S, D] at the places from `place` on -> [R S, D]."""
        return self.finish(*self.attend(state, place))

    def take(self, other: TemporalSteps, row_of: Integers) -> None:
        """All places of another cache, row by row: row_of [R]."""
        places = len(other.turns)
        self.keys[..., :places] = other.keys[..., :places][row_of]
        self.values[:, :, :places] = other.values[:, :, :places][row_of]


class DepthSteps(BlockSteps):
    """One depth block over a frame's places."""

    def __init__(self, block: PackedBlock, rows: int, streams: int) -> None:
        super().__init__(block, rows)
        shapes = attention.frame_cache_shapes(rows, streams, block.heads, block.head_width)
        self.cache, self.scratch = (np.zeros(shape, np.float32) for shape in shapes)
        self.attended = np.empty((rows, 1, block.heads, block.head_width), np.float32)
        self.flat_attended = self.attended.reshape(rows, -1)
        self.known = np.empty((rows, block.hidden_out.outputs), np.float32)

    def step(self, state: State, place: int) -> State:
        """State [R, D] at `place` -> [R, D]."""
        x, normed = self.start(state)
        attention.attend_frame(self.flat_heads, place, self.cache, self.scratch, self.attended)
        return self.finish(x, normed, self.flat_attended)

    def step_token(self, table: Floats, tokens: Integers, place: int) -> State:
        """The first block at a place whose input is a token [B], R = copies B, by a table_of_tokens -> [R, D]."""
        layers.look_up(table, tokens, self.known, self.heads)
        attention.attend_frame(self.flat_heads, place, self.cache, self.scratch, self.attended)
        return self.known, self.block.attention_out(self.flat_attended, self.projected)


@torch.no_grad()
def table_of_tokens(depth: DepthTransformer, stream: int, size: int) -> Floats:
    """What the first depth block makes of each token of one stream, but for its attention.

    A row holds x + feed_forward(norm(x)), then queries, keys and values: [V, D + 3 D].
    """
    block = depth.blocks[0]
    begin = int(depth.offsets[stream])
    x = depth.embed_codes.weight[begin : begin + size] + depth.embed_place[stream + 1]
    normed = norm(x, block.norm_attention.weight)
    return as_array(torch.cat([x + block.feed_forward(normed), linear(normed, block.qkv.weight)], dim=1))
