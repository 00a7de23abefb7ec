"""The linear layer by oneDNN against torch's own: values, gradients, what is kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.linear import Dense, dense


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(7, 24), (2, 9, 24), (1, 1, 24)])
@pytest.mark.parametrize("strided", [False, True])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], strided: bool) -> None:
    weight = drawn(40, 24).requires_grad_()
    x = drawn(*shape[:-1], 48)[..., ::2] if strided else drawn(*shape)
    x = x.requires_grad_()
    found, expected = dense(x, weight), F.linear(x, weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    grad = drawn(*expected.shape)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("learns_x", "learns_weight", "kept"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_what_is_frozen_keeps_nothing(learns_x: bool, learns_weight: bool, kept: int) -> None:
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        out = dense(drawn(3, 24).requires_grad_(learns_x), drawn(8, 24).requires_grad_(learns_weight))
    assert len(saved) == kept
    out.sum().backward()


def test_other_precisions_are_torchs_own() -> None:
    layer, x = Dense(16, 8).to(torch.bfloat16), drawn(5, 16).bfloat16()
    assert torch.equal(layer(x), F.linear(x, layer.weight)) and layer.bias is None
