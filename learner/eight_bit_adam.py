"""Adam whose two moments take 8 bits each, by the library bitsandbytes.

A moment is kept in blocks of 256 numbers: a code into a table of 256 values for each number, uint8, and the largest
magnitude of the block, float32. An update reads a moment into 32 bits, goes on in 32 bits as Adam does, and makes the
codes again. Blocks end where rows end, so ranks that hold some rows of a weight hold whole blocks, and what any number
of ranks wrote, any other can read.
Source: Dettmers et al., arXiv 2110.02861, section 2.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learner.optimizer_states import BLOCK, LIBRARY
from learner.ranks import own_part, own_rows, spread_as

LEAST_NUMBERS = 4096  # smaller tensors save nothing; the library's own bound
KEYS = {  # of a checkpoint, and the library's
    "exp_avg_codes": "state1",
    "exp_avg_scale": "absmax1",
    "exp_avg_sq_codes": "state2",
    "exp_avg_sq_scale": "absmax2",
}


def fits(parameter: Tensor) -> bool:
    """Whether its moments can be kept in blocks; the same on every rank."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return parameter.numel() >= LEAST_NUMBERS and parameter.numel() // rows % BLOCK == 0


class EightBitAdam:
    """Over parameters, by name, that all fit. Rates, betas and epsilon as torch.optim.Adam's."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.named = named
        self._own = {name: own_part(parameter.detach()) for name, parameter in named.items()}
        self._adam: Any = _library().optim.Adam8bit(list(self._own.values()), lr=0.0, min_8bit_size=0)

    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        for name, parameter in self.named.items():
            own = self._own[name]
            own.data = own_part(parameter.detach())
            if not own.is_contiguous():  # the library would update a copy
                raise ValueError(f"optimiser: {name} does not lie in one piece")
            if parameter.grad is not None and own.numel():
                own.grad = own_part(parameter.grad)
        self._adam.step()
        for own in self._own.values():
            own.grad = None

    def moments(self, name: str) -> dict[str, Tensor]:
        """Codes and scales as they are, with the parameter's rows, and the count of steps; empty before the first."""
        state, parameter = self._adam.state.get(self._own[name]), self.named[name]
        if not state:
            return {}
        own, whole = self._own[name], parameter.detach()
        parts = {key: spread_as(whole, state[theirs].view(_shape(key, own))) for key, theirs in KEYS.items()}
        return {"step": torch.tensor(float(state["step"])), **parts}

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Inverse of `moments` of some parameters; the others start anew. Raises KeyError for moments of other shapes
        or precision."""
        self._adam.state.clear()
        group = self._adam.param_groups[0]
        for index, (name, own) in enumerate(self._own.items()):
            moments = state.get(name)
            if not moments or not own.numel():
                continue
            if moments.keys() != {"step", *KEYS}:
                raise KeyError(f"optimiser: {name} has no moments of 8 bits")
            self._adam.init_state(group, own, 0, index)
            mine = self._adam.state[own]
            mine["step"] = int(moments["step"])
            for key, theirs in KEYS.items():
                found = _rows_of(self.named[name], moments[key])
                if found.shape != _shape(key, own):
                    raise KeyError(f"optimiser: {name} has another shape")
                mine[theirs].copy_(found.reshape(mine[theirs].shape))


def _shape(key: str, own: Tensor) -> torch.Size:
    """Of a rank's rows of codes or scales."""
    return own.shape if key.endswith("codes") else torch.Size((len(own), own[0].numel() // BLOCK))


def _rows_of(parameter: Tensor, tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor that has all rows of the parameter, or these alone."""
    start, stop = own_rows(parameter)
    return tensor[start:stop] if len(tensor) == len(parameter) else tensor


def _library() -> Any:
    """bitsandbytes, kept from what importing it does beside: on some CPUs it fetches a kernel from a hub, for products
    that nobody here needs, and logs where it could not."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    fetcher = "kernels"  # the package that it would use
    there = fetcher in sys.modules
    if not there:
        sys.modules[fetcher] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(LIBRARY)
    finally:
        if not there:
            del sys.modules[fetcher]
