"""A policy's weights laid out for sampling, and the steps over one place that use them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from policy.linear import onednn_serves
from policy.tiny_musiclm import Block, DepthTransformer, causal_attention, rotate

PACK_ROWS = 64  # the number of rows that oneDNN's layout is chosen for; any other works
NORM_EPS = 1e-5


class PackedLinear:
    """x -> x W^T, or gelu of it, with a weight that oneDNN has laid out for itself."""

    def __init__(self, weight: Tensor, gelu: bool = False) -> None:
        self.gelu, self.packed = gelu, onednn_serves(weight)
        weight = weight.detach().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS) if self.packed else weight.clone()
        self.after: tuple[str, list[float], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.product = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return self.product(x, self.weight, None, *self.after)
        x = F.linear(x, self.weight)
        return F.gelu(x, approximate="tanh") if self.gelu else x


class PackedBlock:
    """One block's weights; the attention's scale is in the weights of the queries."""

    def __init__(self, block: Block) -> None:
        self.heads, self.key_heads, self.head_width = block.heads, block.key_heads, block.head_width
        self.width = (block.heads * block.head_width,)
        self.norm_attention = block.norm_attention.weight.detach().clone()
        norm_hidden = block.norm_hidden
        self.norm_hidden = None if norm_hidden is None else norm_hidden.weight.detach().clone()
        self.qkv = PackedLinear(scaled_queries(block))
        self.attention_out = PackedLinear(block.attention_out.weight)
        self.hidden = PackedLinear(block.hidden.weight, gelu=True)
        self.hidden_out = PackedLinear(block.hidden_out.weight)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., D] -> what is normed and [..., H + 2 G, d] queries, keys, values."""
        normed = torch.layer_norm(x, self.width, self.norm_attention, None, NORM_EPS)
        return normed, self.qkv(normed).view(*x.shape[:-1], -1, self.head_width)

    def finish(self, x: Tensor, normed: Tensor, attended: Tensor) -> Tensor:
        """The block's input, its normed input and its attention's result, all [..., D] -> its output."""
        y = self.attention_out(attended).add_(x)
        if self.norm_hidden is not None:
            normed = torch.layer_norm(y, self.width, self.norm_hidden, None, NORM_EPS)
        return self.hidden_out(self.hidden(normed)).add_(y)


class TemporalCache:
    """Keys and values of one temporal block: [2, B G, S, d], S the longest that the sequence gets."""

    def __init__(self, block: PackedBlock, rows: int, length: int, like: Tensor) -> None:
        self.block, self.rows = block, rows
        self.whole = like.new_empty(2, rows, block.key_heads, length, block.head_width)
        self.keys, self.values = self.whole.flatten(1, 2)

    def fill(self, text: Tensor, row_of: Tensor, turns: Tensor, last: bool) -> Tensor:
        """The prefix: text [U, L, D] of the different texts, row_of [B], turns complex [L, 1, d/2] -> [U, L, D]."""
        block = self.block
        normed, heads = block.start(text)
        query_key = rotate(heads[:, :, : -block.key_heads], turns)
        query, key = query_key[:, :, : block.heads].transpose(1, 2), query_key[:, :, block.heads :].transpose(1, 2)
        value = heads[:, :, -block.key_heads :].transpose(1, 2)
        self.whole[0, :, :, : text.shape[1]] = key[row_of]
        self.whole[1, :, :, : text.shape[1]] = value[row_of]
        if last:  # of the last block nothing is read but keys and values
            return text
        return block.finish(text, normed, causal_attention(query * block.head_width**0.5, key, value))

    def step(self, x: Tensor, place: int, turns: Tensor) -> Tensor:
        """x [B, D] at `place`, turns complex [H + 2 G, d/2], which leave the values as they are -> [B, D]."""
        block = self.block
        normed, heads = block.start(x)
        turned = rotate(heads, turns)
        added = turned[:, block.heads :].view(self.rows, 2, block.key_heads, block.head_width)
        self.whole.select(3, place).copy_(added.transpose(0, 1))
        query = turned[:, : block.heads].reshape(len(self.keys), -1, block.head_width)  # [B G, H / G, d]
        scores = torch.bmm(query, self.keys[:, : place + 1].transpose(1, 2))
        attended = torch.bmm(scores.softmax(-1), self.values[:, : place + 1])
        return block.finish(x, normed, attended.view(x.shape))


class DepthCache:
    """Keys and values of one depth block over the frame's places: [K, 2, B, H, d]. Its views are made beforehand."""

    def __init__(self, block: PackedBlock, rows: int, streams: int, like: Tensor) -> None:
        self.block = block
        whole = like.new_empty(streams, 2, rows, block.heads, block.head_width)
        self.places = list(whole)
        self.keys = [whole[: place + 1, 0] for place in range(streams)]
        self.values = [whole[: place + 1, 1] for place in range(streams)]

    def step(self, x: Tensor, place: int) -> Tensor:
        """x [B, D] at `place` -> [B, D]."""
        normed, heads = self.block.start(x)
        return self.block.finish(x, normed, self.attend(heads, place))

    def attend(self, heads: Tensor, place: int) -> Tensor:
        """heads [B, 3 H, d] -> [B, D]. So few places go faster as sums over the leading dimension than as products."""
        count = self.block.heads
        added = heads[:, count:].view(len(heads), 2, count, -1)
        self.places[place].copy_(added.transpose(0, 1))
        if place == 0:
            return self.values[0].reshape(len(heads), -1)  # it attends to itself alone
        scores = (self.keys[place] * heads[:, :count]).sum(-1, keepdim=True)  # [k + 1, B, H, 1]
        return (self.values[place] * scores.softmax(0)).sum(0).view(len(heads), -1)


class TokenTable:
    """What the first depth block makes of each token of one stream, but for its attention.

    A row holds x + feed_forward(norm(x)), then queries, keys and values: [V, D + 3 D].
    """

    def __init__(self, depth: DepthTransformer, stream: int, size: int) -> None:
        block = depth.blocks[0]
        begin = int(depth.offsets[stream])
        x = depth.embed_codes.weight[begin : begin + size] + depth.embed_place[stream + 1]
        normed = block.norm_attention(x)
        projected = F.linear(normed, scaled_queries(block))
        self.rows = torch.cat([x + block.feed_forward(normed), projected], dim=1)
        self.width, self.head_width = x.shape[1], block.head_width

    def look_up(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """token [B] -> the block's output without attention [B, D], and its heads [B, 3 H, d]."""
        found = self.rows.index_select(0, token)
        return found[:, : self.width], found[:, self.width :].unflatten(1, (-1, self.head_width))


def scaled_queries(block: Block) -> Tensor:
    """The block's projection with 1 / sqrt(d) in the rows of the queries."""
    weight = block.qkv.weight.detach().clone()
    weight[: block.heads * block.head_width] *= block.head_width**-0.5
    return weight
