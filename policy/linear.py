"""Bias-free linear layers that are faster on a CPU than torch's own, in two kinds.

`Linear` gives results that do not hang on how many rows are worked out together: forward it runs the product that the
sampler runs too (policy.compiled.product). `Dense` runs forward on oneDNN (codec.onednn). Backward both do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec import onednn
from policy.compiled.product import pack, product
from policy.compiled.simd import Floats
from policy.threads import share_rows

LEAST_ROWS = 256  # below it, a thread costs more than it brings


class Linear(nn.Linear):
    """nn.Linear without a bias, compiled on a CPU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., I], weight [O, I] -> [..., O], differentiable."""
    return _Linear.apply(x, weight) if kernels_serve(x, weight) else F.linear(x, weight)


class Dense(nn.Linear):
    """nn.Linear without a bias, by oneDNN on a CPU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight)


def dense(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., I], weight [O, I] -> [..., O], differentiable."""
    if kernels_serve(x, weight) and onednn.serves():
        return _Dense.apply(x, weight)
    # of more than two dimensions that do not lie together in memory, torch would copy the weight for each row
    return F.linear(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


def kernels_serve(*tensors: Tensor) -> bool:
    """Whether compiled kernels can take these tensors: float32 on a CPU."""
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def lent(weight: Tensor) -> Floats:
    """A weight's numbers: its own memory where it is contiguous, else a copy.

    Not by Tensor.numpy(), which forbids for good to resize what it was called on: a sharded learner gives the memory of
    a block's weights back after each use.
    """
    numbers: Floats = np.from_dlpack(weight.detach().contiguous())  # type: ignore[assignment]
    return numbers


class _Linear(torch.autograd.Function):
    """y = x W^T;  dx = dy W;  dW = dy^T x: three products of the same form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows, panels = x.detach().contiguous().view(-1, x.shape[-1]).numpy(), pack(lent(weight))
        out = x.new_empty(*x.shape[:-1], len(weight))
        results = out.view(-1, len(weight)).numpy()
        share_rows(len(rows), LEAST_ROWS, lambda begin, end: product(rows[begin:end], panels, results[begin:end]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = onednn.product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = onednn.product(grad.flatten(0, -2).t(), x.flatten(0, -2).t())
        return grad_x, grad_weight


class _Dense(torch.autograd.Function):
    """The same; kept for the backward pass is what it will use: of a frozen weight, no input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        learns_x, learns_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if learns_weight else None, weight if learns_x else None)
        return onednn.product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = None if weight is None else onednn.product(grad, weight.t())
        grad_weight = None if x is None else onednn.product(grad.flatten(0, -2).t(), x.flatten(0, -2).t())
        return grad_x, grad_weight
