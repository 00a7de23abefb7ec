"""Low-rank adapters: a matrix W stays as it is, and B A, of rank r, is learnt beside it.

    y = W x + (alpha / r) B A x,      merged: W + (alpha / r) B A

B starts at zero, so that the adapted network starts as the network that it adapts. Samplers never see adapters: they
get merged matrices, or merge what they get.
Source: Hu et al., arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy.linear import Dense, dense

ADAPTERS = ("lora_a", "lora_b")
FACTOR = "lora_factor"  # beside adapters on their way: alpha / r, float64 [1]


class AdaptedLinear(nn.Linear):
    """A bias-free linear layer that keeps the weight of `base`, the same tensor, and learns lora_a and lora_b."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.factor = base.weight, alpha / rank
        self.register_parameter("bias", None)
        device: Any = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, **device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, **device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight) + self.factor * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self) -> Tensor:
        """[O, I]."""
        return torch.addmm(self.weight, self.lora_b, self.lora_a, alpha=self.factor)


def adapt(network: nn.Module, rank: int, alpha: float, seed: int) -> int:
    """Gives every bias-free linear layer below a list of layers an adapter, and freezes everything else.

    -> how many layers were adapted. The adapters' start depends on the seed alone. Raises ValueError where none is.
    """
    network.requires_grad_(False)
    found = [
        (parent, child, module)
        for name, parent in network.named_modules()
        if ".layers." in f".{name}."
        for child, module in parent.named_children()
        if type(module) in (nn.Linear, Dense) and module.bias is None
    ]
    if not found:
        raise ValueError(f"adapters: got a {type(network).__name__} without linear layers to adapt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parent, child, module in found:
            setattr(parent, child, AdaptedLinear(module, rank, alpha))
    return len(found)


@torch.no_grad()
def merged_state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network by name, as if it had no adapters: an adapted weight is merged when it is asked for."""
    adapted = {name: module for name, module in network.named_modules() if isinstance(module, AdaptedLinear)}
    for name, tensor in network.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if leaf in ADAPTERS:
            continue
        yield name, adapted[owner].merged() if owner in adapted and leaf == "weight" else tensor


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network by name, as if it had never had adapters."""
    return {name: tensor for name, tensor in network.state_dict().items() if name.rpartition(".")[2] not in ADAPTERS}


def adapters_of(network: nn.Module) -> dict[str, Tensor]:
    """lora_a [r, I] and lora_b [O, r] of each adapted layer, by name, and FACTOR, for `merge_into`."""
    factors = {module.factor for module in network.modules() if isinstance(module, AdaptedLinear)}
    (factor,) = factors  # one rank and one alpha for all
    state = {name: tensor for name, tensor in network.state_dict().items() if name.rpartition(".")[2] in ADAPTERS}
    return {**state, FACTOR: torch.tensor([factor], dtype=torch.float64)}


def adapted_names(names: Iterable[str]) -> list[str]:
    """The weights that adapters of these names belong to; empty where the names are no adapters."""
    return [f"{name.removesuffix('.lora_b')}.weight" for name in names if name.endswith(".lora_b")]


@torch.no_grad()
def merge_into(weights: Mapping[str, Tensor], adapters: Mapping[str, Tensor]) -> None:
    """Adds adapters, as `adapters_of` gives them, to the weights that they belong to, in place: the same bits as those
    of `merged_state`.

    Raises ValueError, before anything is changed, where adapters and weights do not fit each other.
    """
    names = adapted_names(adapters)
    pairs = {name: [adapters.get(name.removesuffix("weight") + part) for part in ADAPTERS] for name in names}
    if set(adapters) != {FACTOR, *(name.removesuffix("weight") + part for name in names for part in ADAPTERS)}:
        raise ValueError(f"adapters: got {sorted(adapters)[:3]} …, allowed a lora_a and a lora_b of each, and {FACTOR}")
    for name, (a, b) in pairs.items():
        shape = tuple(weights[name].shape) if name in weights else None
        if a is None or b is None or shape != (len(b), a.shape[1]) or a.shape[0] != b.shape[1]:
            raise ValueError(f"adapters: those of {name} do not fit its shape {shape}")
    factor = adapters[FACTOR].item()
    for name, (a, b) in pairs.items():
        weight = weights[name]
        assert a is not None and b is not None
        weight.addmm_(b.to(weight), a.to(weight), alpha=factor)


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold: everything, or of an adapted network what learns."""
    if any(isinstance(module, AdaptedLinear) for module in network.modules()):
        return {name: parameter.detach() for name, parameter in network.named_parameters() if parameter.requires_grad}
    return network.state_dict()


def changed_names(network: nn.Module) -> list[str]:
    """Of the names in `merged_state`, those whose tensors training changes."""
    adapted = [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, AdaptedLinear)]
    return adapted or [name for name, parameter in network.named_parameters() if parameter.requires_grad]
