"""Ranks of torch.distributed that share each update: rows always, and by choice the networks, too.

    data      every rank holds whole networks; gradients are summed once an update
    sharded   every rank holds a part of each weight and of its Adam moments; a block's weights are gathered for the
              time of its forward and backward pass, and its gradient is summed and cut up at once

Both are FSDP2 (torch.distributed.fsdp.fully_shard) over meshes of ranks x 1 and of 1 x ranks. Its hooks gather whole
blocks, so what a block does inside, compiled kernels and their own gradients included, sees plain tensors.
With precision bfloat16 the gathered weights and the activations have 16 bits; the parts that Adam updates, and the
sums of gradients, keep 32.
Source: ZeRO (arXiv 1910.02054), FSDP (arXiv 2304.11277).
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from cluster.errors import RunFailed
from configs.schema import LearnerConfig
from learner.meeting import Place
from learner.ranks import blocks_of, share_of


class DistributedRanks:
    """learner.ranks.Ranks over the process group that `join` made."""

    spreads = True

    def __init__(self, config: LearnerConfig) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._sharded = config.parallel == "sharded"
        self._device = "cuda" if config.gpus else "cpu"
        shape = (1, self.size) if self._sharded else (self.size, 1)
        self._mesh = init_device_mesh(self._device, shape, mesh_dim_names=("copies", "parts"))
        self._precision = MixedPrecisionPolicy()
        if config.precision == "bfloat16":
            self._precision = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def part(self) -> str:
        return f"-{self.rank:05d}-of-{self.size:05d}" if self._sharded and self.size > 1 else ""

    def prepare(self, network: nn.Module) -> None:
        mesh = self._mesh["parts"] if self._sharded else self._mesh
        for block in blocks_of(network):
            fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=self._precision)
        # The outermost, too, gives back what it gathered: after a pass without gradients nothing else would, and the
        # next one would see old weights.
        precision = MixedPrecisionPolicy(
            self._precision.param_dtype, self._precision.reduce_dtype, output_dtype=torch.float32
        )
        fully_shard(network, mesh=mesh, reshard_after_forward=True, mp_policy=precision)

    def passes(self, rows: int, most: int) -> list[tuple[int, int]]:
        start, stop = share_of(rows, self.rank, self.size)
        largest = -(-rows // self.size)
        return [(min(start + done, stop), min(start + done + most, stop)) for done in range(0, largest, most)]

    def backward(self, loss: Tensor, network: nn.Module, last: bool) -> None:
        assert isinstance(network, FSDPModule)
        if not self._sharded:
            network.set_requires_gradient_sync(last)
        (loss * self.size).backward()  # FSDP takes the mean over ranks

    def add(self, numbers: Tensor) -> Tensor:
        total = numbers.to(self._device)
        dist.all_reduce(total)
        return total.to(numbers.device)

    def largest(self, number: float) -> float:
        found = torch.tensor(number, dtype=torch.float64, device=self._device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.item()

    def meet(self) -> None:
        dist.barrier()


def join(config: LearnerConfig, place: Place | None, start_s: float) -> None:
    """Makes this process's group of torch.distributed, once all ranks are there: gloo on CPUs, NCCL on GPUs.

    place: None for a rank that is alone. Raises RunFailed where the others do not come within `start_s`.
    """
    backend = "nccl" if config.gpus else "gloo"
    if config.gpus:
        torch.cuda.set_device(0)  # Ray shows each worker its own GPU only
    if place is None:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    if backend == "gloo":  # which finds its address by the host's name, which a container need not know
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_to(place.host))
    limit = timedelta(seconds=config.collective_timeout_s)
    store = dist.PrefixStore("ranks", _others(place, timedelta(seconds=start_s)))
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=limit)


def _others(place: Place, limit: timedelta) -> dist.Store:
    """Waits until all ranks have come to the meeting point -> its store."""
    try:
        store = dist.TCPStore(place.host, place.port, is_master=False, timeout=limit)
        store.set(f"here/{place.rank}", "")
        store.wait([f"here/{rank}" for rank in range(place.size)], limit)
    except dist.DistError:
        waited = f"waited {limit.total_seconds():g} s for the others to start"
        raise RunFailed(f"learner: worker {place.rank} of {place.size} {waited}") from None
    return store


def _interface_to(host: str) -> str:
    """Name of the network interface whose address is used on the way to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        address = probe.getsockname()[0]
    interfaces: dict[str, list[Any]] = psutil.net_if_addrs()
    return next(name for name, each in interfaces.items() if any(one.address == address for one in each))
