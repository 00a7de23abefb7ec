"""Products by oneDNN: those of nn.Linear, and only where they are asked for and can be had."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn
from torch.backends import mkldnn

from codec import onednn
from codec.onednn import FrozenLinear, multiply_by_onednn, product


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.ModuleDict({"inner": nn.Linear(40, 8, bias=False)})["inner"])


def test_a_network_gives_the_same_numbers(network: nn.Module) -> None:
    x = torch.randn(3, 5, 24)
    with torch.inference_mode():
        expected = network(x)
        multiply_by_onednn(network)
        with mock.patch.object(onednn, "product", wraps=product) as used:
            torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    assert used.call_count == 2
    assert [type(each) for each in network] == [FrozenLinear, nn.GELU, FrozenLinear]
    assert list(network.state_dict()) == ["0.weight", "0.bias", "2.weight"]


def test_gradients_and_other_precisions_go_torchs_way(network: nn.Module) -> None:
    multiply_by_onednn(network)
    with mock.patch.object(onednn, "product", side_effect=AssertionError("not differentiable")):
        network(torch.randn(2, 24)).sum().backward()
        assert network[0].weight.grad is not None  # type: ignore[index]
        with torch.inference_mode():
            assert network.bfloat16()(torch.randn(2, 24).bfloat16()).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said wherever the flags of oneDNN are set
def test_without_onednn_the_product_is_torchs() -> None:
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
    for away in (mock.patch("torch.backends.mkldnn.is_available", return_value=False), mkldnn.flags(enabled=False)):
        with away, mock.patch.object(onednn.F, "linear", wraps=onednn.F.linear) as used:
            torch.testing.assert_close(product(x, weight, bias), x @ weight.t() + bias)
        used.assert_called_once()
