"""One broadcast group of the weight bus, and the words that publisher and members exchange about it.

The bytes go down a tree of all members in pieces, several pieces under way at once, so that the publisher sends each
piece to a few members only: gloo's binomial tree between CPUs, NCCL where every process has a GPU of its own.

A group lives as long as its membership. It is of torch's process groups, but never the default one, which belongs to a
learner that runs in several processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cluster.errors import RunFailed

PIECE_BYTES = 8 * 2**20
POLL_S = 0.001
ASK_EVERY_S = 0.1  # whether the publisher gave the broadcast up
CONNECT_S = 10.0  # timeout of the stores: how long the members of a new group wait for each other
PUBLISHER = 0  # rank


class BroadcastFailed(RunFailed):
    """A member died or missed the deadline; the group is of no further use."""


@dataclass(frozen=True)
class Parcel:
    """One publication on its way. `serial` rises with every publication."""

    serial: int
    sizes: tuple[int, ...]  # bytes of its flat buckets


@dataclass(frozen=True)
class Order:
    """What the publisher tells all members to do next: answer a roll call, or take part in a broadcast."""

    roll: int = 0  # number of the group that is being called together; 0: this is a broadcast
    group: int = 0
    members: tuple[str, ...] = ()  # in the order of their ranks, which begin at 1
    parcels: tuple[Parcel, ...] = ()
    complete: bool = False  # everything that can be fetched is in it, the base of the newest included
    gpus: bool = False
    over: bool = False  # nothing will follow

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: bytes) -> Order:
        words = json.loads(text)
        parcels = tuple(Parcel(parcel["serial"], tuple(parcel["sizes"])) for parcel in words.pop("parcels"))
        return cls(**words | {"parcels": parcels, "members": tuple(words["members"])})


class Group:
    """The processes of one membership, connected. Raises BroadcastFailed where they do not come together."""

    def __init__(self, store: Any, number: int, rank: int, size: int, host: str, deadline_s: float, gpus: bool) -> None:
        self.number = number
        self._device = torch.device("cuda" if gpus else "cpu")
        try:
            self._processes = _connect(dist.PrefixStore(f"group/{number}", store), rank, size, host, deadline_s, gpus)
        except Exception as error:  # torch raises RuntimeError and several of its own
            raise BroadcastFailed(f"weights: no group of {size}: {_line(error)}") from error

    def broadcast(self, buckets: Sequence[np.ndarray], given_up: Callable[[], bool], deadline_s: float) -> None:
        """From the publisher's flat buckets [n] uint8 into everybody else's. Raises BroadcastFailed."""
        until, asked = time.monotonic() + deadline_s, time.monotonic()
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = PUBLISHER, 0
        pieces = [piece for bucket in buckets for piece in torch.from_numpy(bucket).split(PIECE_BYTES)]
        try:
            staged = [piece.to(self._device) for piece in pieces]
            works = [self._processes.broadcast([piece], options) for piece in staged]
            for work in works:
                while not work.is_completed():
                    time.sleep(POLL_S)
                    now = time.monotonic()
                    if now > until or (now > asked + ASK_EVERY_S and given_up()):
                        raise BroadcastFailed("weights: a broadcast was not finished in time")
                    asked = now if now > asked + ASK_EVERY_S else asked
                work.wait()
            if self._device.type == "cuda":
                for piece, arrived in zip(pieces, staged, strict=True):
                    piece.copy_(arrived)
        except RuntimeError as error:
            raise BroadcastFailed(f"weights: a broadcast broke off: {_line(error)}") from error

    def close(self) -> None:
        """Lets go of the connections; what is under way fails."""
        if hasattr(self._processes, "abort"):
            self._processes.abort()
        self._processes = None


def own_gpu() -> bool:
    """Whether this process can take part in NCCL's broadcasts."""
    return torch.cuda.is_available() and dist.is_nccl_available()


def _connect(store: Any, rank: int, size: int, host: str, deadline_s: float, gpus: bool) -> Any:
    if gpus:
        chosen = dist.ProcessGroupNCCL.Options()
        chosen._timeout = timedelta(seconds=deadline_s)
        return dist.ProcessGroupNCCL(store, rank, size, chosen)
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = timedelta(seconds=deadline_s)
    return gloo(store, rank, size, options)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
