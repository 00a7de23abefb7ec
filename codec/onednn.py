"""Matrix products by oneDNN, which comes with torch, in float32 on a CPU.

torch's own route hands them to MKL, which keeps to AVX2 on processors of other makers: half the rate on those.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I], weight [O, I], bias [O] -> [..., O] float32, on a CPU; not differentiable."""
    if serves():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def serves() -> bool:
    """Whether this torch has oneDNN, and nobody has switched it off."""
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def multiply_by_onednn(network: nn.Module) -> None:
    """Has the linear layers of a network that is only asked, never trained, multiply by oneDNN, in place."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear


class FrozenLinear(nn.Linear):
    """nn.Linear; by oneDNN where no gradient is asked for and oneDNN serves."""

    def forward(self, x: Tensor) -> Tensor:
        served = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if torch.is_grad_enabled() or not served:
            return super().forward(x)
        return product(x, self.weight, self.bias)
