"""The decoder of the encodec package's SEANet on a CPU, with channels last: sounds [B, N, C].

A transposed convolution is then one matrix product and a sum of blocks that lie in one piece; oneDNN takes channels
last for the other convolutions as they are; exponential linear units are worked out in place. Weights are laid out
once. What a later layer makes of many clips would fall out of the cache before the next one reads it: it takes a few
clips at a time, while the first ones, whose time goes into reading their weights, take all.
Source of the layers: Défossez et al., arXiv 2210.13438, section 3.1.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.onednn import product

GROUP_BYTES = 4 * 2**20  # of clips between two layers: some of them stay in a cache
Layer = Callable[[Tensor], Tensor]  # may overwrite what it is given


class ChannelsLastDecoder:
    """What an encodec.modules.seanet.SEANetDecoder with its present weights makes of latents, up to rounding."""

    def __init__(self, decoder: Any) -> None:
        self.layers = _layers(list(decoder.model))

    def __call__(self, latent: Tensor) -> Tensor:
        """latent [B, T, D] -> pcm [B, N, 1]. The latent stays as it is."""
        return in_groups(self.layers, latent)


def in_groups(layers: Sequence[Layer], clips: Tensor) -> Tensor:
    """clips [B, ...] -> what the layers make of them, a few at a time: as many as make up GROUP_BYTES."""
    if not layers:
        return clips
    made = layers[0](clips)
    size = max(1, GROUP_BYTES // (made[0].numel() * made.element_size()))
    return torch.cat([in_groups(layers[1:], group) for group in made.split(size)])


def _layers(modules: list[Any]) -> list[Layer]:
    """The package's modules in order, each exponential linear unit put together with what follows it."""
    made: list[Layer] = []
    bent = False
    for module in modules:
        kind = type(module).__name__
        if kind == "ELU":
            bent = True
            continue
        made.append(_KINDS[kind](module, bent))
        bent = False
    return made


class Convolution:
    """Of stride 1, padded as the package does. bent: its input passes an exponential linear unit before."""

    def __init__(self, module: Any, bent: bool) -> None:
        inner = module.conv.conv
        self.bent, self.mode, self.bias, self.dilation = bent, module.pad_mode, inner.bias, inner.dilation[0]
        reach = (inner.kernel_size[0] - 1) * self.dilation
        right = 0 if module.causal else reach // 2
        self.padding = (reach - right, right)
        self.matrix = None if reach else inner.weight[..., 0].contiguous()
        self.weight = inner.weight[:, :, None].contiguous(memory_format=torch.channels_last) if reach else None

    def __call__(self, x: Tensor) -> Tensor:
        x = padded(x, *self.padding, self.mode)
        if self.bent:
            F.elu_(x)
        if self.weight is None:
            assert self.matrix is not None
            return product(x, self.matrix, self.bias)
        rows = x.transpose(1, 2)[:, :, None]  # [B, C, 1, N], channels last
        made = torch.mkldnn_convolution(rows, self.weight, self.bias, (0, 0), (1, 1), (1, self.dilation), 1)
        return made[:, :, 0].transpose(1, 2)


class TransposedConvolution:
    """Of a kernel of two strides: an input makes two blocks of outputs, each added to its neighbour's."""

    def __init__(self, module: Any, bent: bool) -> None:
        inner = module.convtr.convtr
        self.bent, self.width, stride = bent, inner.out_channels, inner.stride[0]
        if inner.kernel_size[0] != 2 * stride:
            raise ValueError(f"transposed convolution: got a kernel of {inner.kernel_size[0]}, allowed {2 * stride}")
        self.matrix = inner.weight.permute(2, 1, 0).reshape(-1, inner.in_channels).contiguous()  # [2 S C', C]
        block = inner.bias.repeat(stride)
        self.bias, self.block_bias = torch.cat([block, torch.zeros_like(block)]), block
        cut = math.ceil(stride * module.trim_right_ratio) if module.causal else stride // 2
        self.cut = (stride - cut, cut)

    def __call__(self, x: Tensor) -> Tensor:
        halves = product(F.elu_(x) if self.bent else x, self.matrix, self.bias)
        first, second = halves.chunk(2, dim=2)  # [B, N, S C'] each
        rows, inputs, block = first.shape
        made = halves.new_empty(rows, inputs + 1, block)
        made[:, 0] = first[:, 0]
        torch.add(first[:, 1:], second[:, :-1], out=made[:, 1:-1])
        torch.add(second[:, -1], self.block_bias, out=made[:, -1])
        sounds = made.view(rows, -1, self.width)
        return sounds[:, self.cut[0] : sounds.shape[1] - self.cut[1]]


class Residual:
    """shortcut(x) + block(x)."""

    def __init__(self, module: Any, bent: bool) -> None:
        assert not bent
        self.block, self.shortcut = _layers(list(module.block)), _layers([module.shortcut])[0]
        first = self.block[0]
        self.overwrites = isinstance(first, Convolution) and not any(first.padding)

    def __call__(self, x: Tensor) -> Tensor:
        made = x.clone() if self.overwrites else x
        for layer in self.block:
            made = layer(made)
        return made.add_(self.shortcut(x))


class Recurrent:
    """Long short-term memory over the clip."""

    def __init__(self, module: Any, bent: bool) -> None:
        assert not bent
        self.lstm, self.skip = module.lstm, module.skip

    def __call__(self, x: Tensor) -> Tensor:
        made, _ = self.lstm(x.transpose(0, 1))
        made = made.transpose(0, 1)
        return made + x if self.skip else made


def padded(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """x [B, N, C] -> [B, left + N + right, C], as encodec.modules.conv.pad1d; a copy unless there is nothing to add."""
    length = x.shape[1]
    if not left + right:
        return x
    if mode != "reflect" or length <= max(left, right):
        pad1d = importlib.import_module("encodec.modules.conv").pad1d
        return pad1d(x.transpose(1, 2), (left, right), mode).transpose(1, 2).contiguous()
    made = x.new_empty(x.shape[0], left + length + right, x.shape[2])
    made[:, left : left + length] = x
    made[:, :left] = x[:, 1 : left + 1].flip(1)
    made[:, left + length :] = x[:, length - 1 - right : length - 1].flip(1)
    return made


_KINDS: dict[str, Callable[[Any, bool], Layer]] = {
    "SConv1d": Convolution,
    "SConvTranspose1d": TransposedConvolution,
    "SEANetResnetBlock": Residual,
    "SLSTM": Recurrent,
    "Identity": lambda module, bent: lambda x: x,
}
