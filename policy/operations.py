"""What lies between the network's matrix products, as differentiable functions of whole sequences.

On a CPU in float32 they run the kernels that the sampler runs too (policy.compiled), so that learner and sampler agree
to the bit up to the logits; anywhere else they are torch's own functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.compiled import attention, layers
from policy.compiled.simd import Floats
from policy.linear import kernels_serve, lent
from policy.threads import share_rows

LEAST_NUMBERS = 100_000  # for a thread of its own


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU; any shape."""
    return _Gelu.apply(x) if kernels_serve(x) else F.gelu(x, approximate="tanh")


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Layer norm over the last dimension without a bias: x [..., D], weight [D] -> [..., D]."""
    return _Norm.apply(x, weight) if kernels_serve(x, weight) else F.layer_norm(x, weight.shape, weight)


def self_attention(heads: Tensor, turns: Tensor | None, query_heads: int) -> Tensor:
    """Causal attention: heads [B, S, H + 2 G, d] queries, keys, values; turns complex [S, d/2], or None: at most
    MOST_PLACES places without rotary positions, and G = H -> [B, S, H d]."""
    attend = _Attention.apply if kernels_serve(heads) else torch_attention
    return attend(heads, turns, query_heads)


def torch_attention(heads: Tensor, turns: Tensor | None, query_heads: int) -> Tensor:
    """self_attention by torch's own functions."""
    return causal_attention(*(part.transpose(1, 2) for part in split_heads(heads, turns, query_heads)))


def split_heads(heads: Tensor, turns: Tensor | None, query_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """heads [B, S, H + 2 G, d] -> queries [B, S, H, d] and keys [B, S, G, d], turned, and values [B, S, G, d]."""
    key_heads = (heads.shape[2] - query_heads) // 2
    query_key, value = heads[:, :, :-key_heads], heads[:, :, -key_heads:]
    if turns is not None:
        query_key = rotate(query_key, turns[:, None])
    return query_key[:, :, :query_heads], query_key[:, :, query_heads:], value


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query [B, H, S, d], key and value [B, G, S, d], G a divisor of H -> [B, S, H d]."""
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attended.transpose(1, 2).flatten(-2)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions: neighbouring pairs of the last dimension, taken as complex numbers, are turned.

    x [..., d], turns complex [..., d/2], broadcast -> [..., d]. In 16 bits, of which torch has no complex numbers to
    calculate with, x is turned in 32.
    """
    wide = x.float() if x.dtype.itemsize < 4 else x
    pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).view(x.shape).to(x.dtype)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = x.new_empty(x.shape)
        numbers, results = _flat(x), _flat(out)
        share_rows(len(numbers), LEAST_NUMBERS, lambda a, b: layers.gelu(numbers[a:b], results[a:b]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, out = ctx.saved_tensors[0], torch.empty_like(grad, memory_format=torch.contiguous_format)
        numbers, grads, results = _flat(x), _flat(grad), _flat(out)
        share_rows(
            len(numbers), LEAST_NUMBERS, lambda a, b: layers.gelu_gradient(numbers[a:b], grads[a:b], results[a:b])
        )
        return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        out, moments = x.new_empty(x.shape), x.new_empty(*x.shape[:-1], 2)
        ctx.save_for_backward(x, weight, moments)
        rows, results, found = (_rows(part) for part in (x, out, moments))
        factors = lent(weight)

        def work(a: int, b: int) -> None:
            layers.norm(rows[a:b], rows[:0], factors, rows[a:b], results[a:b], found[a:b])

        share_rows(len(rows), LEAST_NUMBERS // len(weight), work)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, moments = ctx.saved_tensors
        mean, scale = moments[..., :1].contiguous(), moments[..., 1:].contiguous()
        shape, wanted = list(weight.shape), [*ctx.needs_input_grad, False]
        found = torch.ops.aten.native_layer_norm_backward(grad, x, shape, mean, scale, weight, None, wanted)
        return found[0], found[1]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, turns: Tensor | None, query_heads: int) -> Tensor:
        ctx.save_for_backward(heads, turns)
        ctx.query_heads = query_heads
        batch, places, both, width = heads.shape
        out = heads.new_empty(batch, places, query_heads, width)
        numbers, results = heads.detach().contiguous().numpy(), out.numpy()
        pairs = None if turns is None else torch.view_as_real(turns).contiguous().numpy()

        def work(a: int, b: int) -> None:
            part = numbers[a:b].reshape(-1)
            if pairs is None:
                cache = _zeros(attention.frame_cache_shapes(1, places, query_heads, width))
                attention.attend_frame(part, 0, *cache, results[a:b])
            else:
                cache = _zeros(attention.sequence_cache_shapes(1, (both - query_heads) // 2, places, width))
                attention.attend_sequence(part, pairs, 0, *cache, results[a:b])

        share_rows(batch, 1 + LEAST_NUMBERS // (places * both * width), work)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        heads, turns = ctx.saved_tensors
        query, key, value = (part.transpose(1, 2).contiguous() for part in split_heads(heads, turns, ctx.query_heads))
        parts = [query, key, value, grad.unflatten(-1, (ctx.query_heads, -1)).transpose(1, 2).contiguous()]
        found = [torch.zeros_like(part) for part in parts[:3]]
        arrays = [part.numpy() for part in (*parts, *found)]

        def work(a: int, b: int) -> None:
            scratch = np.zeros(attention.gradient_scratch(heads.shape[1]), np.float32)
            given, wanted = [part[a:b] for part in arrays[:4]], [part[a:b] for part in arrays[4:]]
            attention.attention_gradient(*given, scratch, *wanted)

        share_rows(len(heads), 1 + LEAST_NUMBERS // heads[0].numel(), work)
        query, key, value = (part.transpose(1, 2) for part in found)
        query_key = torch.cat([query, key], dim=2)
        if turns is not None:  # back by the same angle
            query_key = rotate(query_key, turns[:, None].conj())
        return torch.cat([query_key, value], dim=2), None, None


def _flat(x: Tensor) -> Floats:
    """[...] -> [N]: its own memory where it is contiguous, else a copy."""
    return x.detach().contiguous().view(-1).numpy()


def _rows(x: Tensor) -> Floats:
    """[..., D] -> [R, D]: its own memory where it is contiguous, else a copy."""
    return x.detach().contiguous().view(-1, x.shape[-1]).numpy()


def _zeros(shapes: Iterable[tuple[int, ...]]) -> list[Floats]:
    return [np.zeros(shape, np.float32) for shape in shapes]
