"""Decoding piece by piece, in batches: sound leaves while later tokens are still sampled, and memory stays bounded.

24 kHz: the decoder is causal; each layer keeps what it needs of the past (inputs of convolutions, the tail of
transposed ones, the state of the LSTM), so the pieces together are the whole clip up to rounding. 48 kHz: segments of
one second are decoded alone and cross-faded over the 10 ms in which they overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_FRAMES = 8  # of the first piece: the first convolution reflects 6 frames about the beginning


class CausalDecoder:
    """State of one batch of clips on its way through EnCodec's 24 kHz decoder."""

    def __init__(self, decoder: Any) -> None:
        self.layers = list(decoder.model)
        self.state: dict[int, Any] = {}

    @torch.no_grad()
    def push(self, latent: Tensor) -> Tensor:
        """The next frames [B, D, t] -> their sound [B, 1, 320 t]. Raises ValueError where the first are too few."""
        if not self.state and latent.shape[-1] < FEWEST_FRAMES:
            raise ValueError(f"frames: got {latent.shape[-1]} in the first piece, allowed at least {FEWEST_FRAMES}")
        for layer in self.layers:
            latent = self._run(layer, latent)
        return latent

    def _run(self, layer: Any, x: Tensor) -> Tensor:
        kind = type(layer).__name__
        if kind == "SConv1d":
            return self._convolution(layer, x)
        if kind == "SConvTranspose1d":
            return self._transposed(layer, x)
        if kind == "SLSTM":
            return self._recurrent(layer, x)
        if kind == "SEANetResnetBlock":
            inner = x
            for part in layer.block:
                inner = self._run(part, inner)
            return self._run(layer.shortcut, x) + inner
        return layer(x)  # ELU and identity: nothing to remember

    def _convolution(self, layer: Any, x: Tensor) -> Tensor:
        inner = layer.conv.conv
        past = (inner.kernel_size[0] - 1) * inner.dilation[0]
        if past:
            before = self.state.get(id(layer))
            x = F.pad(x, (past, 0), mode="reflect") if before is None else torch.cat([before, x], dim=-1)
            self.state[id(layer)] = x[..., -past:]
        return layer.conv(x)

    def _transposed(self, layer: Any, x: Tensor) -> Tensor:
        inner = layer.convtr.convtr
        stride = inner.stride[0]
        y = layer.convtr(x)  # [B, C, (t + 1) stride]; its last `stride` samples are added to what comes next
        if id(layer) in self.state:
            y = torch.cat([y[..., :stride] + self.state[id(layer)], y[..., stride:]], dim=-1)
        tail = y[..., x.shape[-1] * stride :]
        self.state[id(layer)] = tail if inner.bias is None else tail - inner.bias[:, None]
        return y[..., : x.shape[-1] * stride]

    def _recurrent(self, layer: Any, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        y, self.state[id(layer)] = layer.lstm(steps, self.state.get(id(layer)))
        return (y + steps if layer.skip else y).permute(1, 2, 0)


def overlapped(segments: Iterable[Tensor], stride: int) -> Iterator[Tensor]:
    """Segments [B, C, n], each `stride` after the one before -> pieces of their cross-faded sum; all n equal but the
    last. Each position is covered by two segments at most.

    The weights are a triangle over a segment, as the encodec package has them.
    """
    rest: Tensor | None = None  # weighted sum where the next segment will overlap
    rest_weight: Tensor | None = None
    weight: Tensor | None = None
    for segment in segments:
        if weight is None:
            place = torch.linspace(0, 1, segment.shape[-1] + 2, dtype=segment.dtype, device=segment.device)[1:-1]
            weight = 0.5 - (place - 0.5).abs()
        share = weight[: segment.shape[-1]].clone()
        total = segment * share
        if rest is not None and rest_weight is not None:
            over = min(rest.shape[-1], total.shape[-1])
            total[..., :over] += rest[..., :over]
            share[:over] += rest_weight[:over]
            if over < rest.shape[-1]:  # a last segment shorter than the overlap
                total = torch.cat([total, rest[..., over:]], dim=-1)
                share = torch.cat([share, rest_weight[over:]])
        done = min(stride, total.shape[-1])
        yield total[..., :done] / share[:done]
        rest, rest_weight = total[..., done:], share[done:]
    if rest is not None and rest_weight is not None and rest.shape[-1]:
        yield rest / rest_weight
