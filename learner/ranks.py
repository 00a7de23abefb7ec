"""Who takes part in an update: one process alone, or several ranks that each take a share of the rows.

What a learner asks of them is the same either way (`Ranks`); alone, every answer is what would be without asking. The
ranks of torch.distributed are in learner.sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cluster.errors import PeerMissing


class Ranks(Protocol):
    """What a learner asks of those that share its updates. Methods marked * are collectives: every rank calls them in
    the same order."""

    rank: int
    size: int
    spreads: bool  # whether `prepare` leaves networks that only a pass of all ranks can use

    @property
    def leads(self) -> bool:
        """Whether this one publishes weights and writes what there is one of."""
        ...

    @property
    def part(self) -> str:
        """Mark of this rank's files in a checkpoint; empty where the leading rank's files hold everything."""
        ...

    def prepare(self, network: nn.Module) -> None:
        """Spreads a network over the ranks, in place."""
        ...

    def passes(self, rows: int, most: int) -> list[tuple[int, int]]:
        """This rank's share of `rows` in passes of at most `most`: (start, stop), equally many on each rank. Where rows
        are too few for all, a pass is empty (start = stop), and a rank goes through it all the same."""
        ...

    def backward(self, loss: Tensor, network: nn.Module, last: bool) -> None:
        """* Adds the gradient of the sum of all ranks' losses to `network`; whole after the last pass only."""
        ...

    def add(self, numbers: Tensor) -> Tensor:
        """* Sum over the ranks."""
        ...

    def largest(self, number: float) -> float:
        """* Maximum over the ranks."""
        ...

    def meet(self) -> None:
        """* Waits until all ranks are here."""
        ...


class Alone:
    """One process that does everything itself."""

    rank, size, spreads = 0, 1, False
    leads, part = True, ""

    def prepare(self, network: nn.Module) -> None:
        return None

    def passes(self, rows: int, most: int) -> list[tuple[int, int]]:
        return [(start, min(start + most, rows)) for start in range(0, rows, most)]

    def backward(self, loss: Tensor, network: nn.Module, last: bool) -> None:
        loss.backward()

    def add(self, numbers: Tensor) -> Tensor:
        return numbers

    def largest(self, number: float) -> float:
        return number

    def meet(self) -> None:
        return None


# ---- tensors of which each rank may hold a part -------------------------------------------------------------------
# The ranks' own tensors are DTensors, cut along their first dimension. Asking by attribute, and not by class, saves a
# process that is alone from loading torch.distributed.


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; * where the ranks hold parts."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: a view of its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """Which rows (start, stop) of the whole tensor this rank holds. Of a scalar: (0, 1)."""
    rows = tensor.shape[0] if tensor.ndim else 1
    mesh: Any = getattr(tensor, "device_mesh", None)
    if mesh is None:
        return 0, rows
    cut = mesh.ndim - 1  # the last dimension of the ranks' mesh is the one that cuts
    return share_of(rows, mesh.get_local_rank(cut), mesh.size(cut))


def like(example: Tensor, part: Tensor) -> Tensor:
    """This rank's part, or the whole, of what is spread as `example` is -> a copy spread in the same way.

    Raises ValueError where it has neither shape.
    """
    start, stop = own_rows(example)
    found = part[start:stop] if part.shape == example.shape and part.ndim else part
    if found.shape != own_part(example).shape:
        raise ValueError(f"got shape {list(part.shape)}, allowed {list(example.shape)}")
    return spread_as(example, found.to(own_part(example).device, copy=True), example.stride())


def spread_as(example: Tensor, rows: Tensor, stride: tuple[int, ...] | None = None) -> Tensor:
    """This rank's rows of a tensor -> that tensor, of as many rows as `example` and spread as it is; no copy.

    stride: of the whole tensor, where it is not contiguous.
    """
    if not hasattr(example, "device_mesh"):
        return rows
    spread: Any = example
    shape = torch.Size((example.shape[0], *rows.shape[1:])) if rows.ndim else rows.shape
    strides = torch.empty(shape, device="meta").stride() if stride is None else stride
    return type(spread).from_local(
        rows, spread.device_mesh, spread.placements, run_check=False, shape=shape, stride=strides
    )


def share_of(rows: int, rank: int, size: int) -> tuple[int, int]:
    """Rows (start, stop) of rank `rank` of `size`, as torch.chunk cuts: equal shares but for the last ones, which may
    be empty."""
    each = -(-rows // size)
    return min(rank * each, rows), min((rank + 1) * each, rows)


# ---- blocks -------------------------------------------------------------------------------------------------------


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The layers of a network: what stands in its outermost ModuleLists and has modules of its own. They must be
    entered by calling them, as torch's hooks ask for."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList) and all(any(True for _ in member.children()) for member in child):
            found.extend(child)
        else:
            found.extend(blocks_of(child))
    return found


def recompute_blocks(network: nn.Module) -> None:
    """Activation checkpointing: of each block only the input is kept for the backward pass, which works out the rest
    again. Source: arXiv 1604.06174, section 4. The gradients are the same."""
    for block in blocks_of(network):
        block.forward = _recomputed(block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def kept_input(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **named)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **named)

    return kept_input


@contextmanager
def exchanging(ranks: Ranks, limit_s: float) -> Iterator[None]:
    """Turns what torch.distributed raises where a rank is gone or late into PeerMissing."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if ranks.size == 1 or not any(word in text.lower() for word in ("gloo", "nccl", "timed out")):
            raise
        late = "timed out" in text.lower() or "timeout" in text.lower()
        what = f"waited {limit_s:g} s for the others in vain" if late else "lost its connection to the others"
        raise PeerMissing(f"learner: worker {ranks.rank} of {ranks.size} {what}") from error
