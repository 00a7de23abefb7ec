"""Policy weights from the learner to everybody who samples: publish, fetch, activate.

    learner --publish--> Publication (spec, digests, probe, a ticket)
                              |  small, travels by value
    generator <--receive------+  copied into its own module and checked in one pass

How the bytes travel is the business of a transport (cluster/weight_transports.py): the publisher's config chooses it,
and the ticket in each publication knows its way back, so that readers need no setting.

The publication says which version and which incarnation of the run (epoch) the weights are from, and carries a probe:
a fixed sequence with the publisher's own mean log-probability of it, so that an activation that "succeeds" and changes
nothing is found out (actors.generator). Only the newest versions stay alive; a reader that comes late asks for the
newest publication, never for a number.

A publication may hold a part of the tensors only, to be laid over an earlier one, its base (adapters on a frozen model,
or whatever training changes). It carries the base, so that a reader that comes late can fetch both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xxhash

from cluster.errors import RunFailed
from cluster.weight_layout import TensorSpec, by_bucket, checksum, copy_tensor, layout

BUCKET_BYTES = 256 * 2**20
KEPT_VERSIONS = 2  # the one in use and the one being fetched
FETCH_DEADLINE_S = 60.0

Buckets = list[list[np.ndarray]]  # the tensors of each bucket
Lent = list[list[memoryview]]  # of each bucket the bytes, as weight_layout.pieces cuts them


class CorruptWeights(RunFailed):
    """What arrived is not what was published. Nothing of it may be used; the publisher is asked to publish again."""


class Superseded(RunFailed):
    """The publication can no longer be fetched, a newer one can."""


@dataclass(frozen=True)
class Probe:
    """A fixed sequence and the publisher's mean log-probability of its cells (nats per token)."""

    prompts: tuple[str, ...]
    codes: np.ndarray  # [B, K, T] uint16
    log_prob: float
    temperature: float = 1.0
    guidance_scale: float = 1.0


@dataclass(frozen=True)
class Publication:
    """One version of the weights, ready to be fetched."""

    version: int
    epoch: str
    spec: tuple[TensorSpec, ...]
    ticket: Any  # a Ticket
    digests: tuple[int, ...]  # of each bucket
    checksum: str  # over spec, contents and base; echoed by whoever activates
    probe: Probe | None = None
    base: Publication | None = None  # what these tensors are laid over; None: they are all there are

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.spec)


class Ticket(Protocol):
    """A reader's way to the buckets of one publication; survives being sent to another process."""

    def open(self, publication: Publication, deadline_s: float) -> AbstractContextManager[Lent]:
        """The bytes, to be read until the context ends. Raises TimeoutError after `deadline_s`, and Superseded."""
        ...


class Transport(Protocol):
    """The publisher's end of one way for buckets to travel."""

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[Any, tuple[int, ...]]:
        """Copies the tensors out, so that the caller may change them -> a Ticket, and the digest of each bucket.

        base: the ticket of the publication that this one is laid over, which must stay fetchable; or None.
        """
        ...

    def close(self) -> None: ...


class WeightBus:
    """The publisher's end. Keeps the newest `KEPT_VERSIONS` publications, and with them what they need, alive."""

    def __init__(self, epoch: str, transport: Transport, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._epoch = epoch
        self._transport = transport
        self._bucket_bytes = bucket_bytes
        self._kept: deque[Publication] = deque(maxlen=KEPT_VERSIONS)

    @property
    def kept(self) -> tuple[Publication, ...]:
        """Versions that are kept alive, oldest first."""
        return tuple(self._kept)

    @property
    def newest(self) -> Publication | None:
        return self._kept[-1] if self._kept else None

    def publish(
        self,
        weights: Mapping[str, np.ndarray],
        version: int,
        probe: Probe | None = None,
        base: Publication | None = None,
        merged: bool = False,
    ) -> Publication:
        """Hands the weights to the transport, which copies them. The newest version may be published again.

        base: an earlier, whole publication whose other tensors still hold. merged: these are none of its tensors, but
        the reader merges them with those, and tells whether they fit. Raises ValueError for a version older than the
        newest, and for a base that is none.
        """
        if self.newest is not None and version < self.newest.version:
            raise ValueError(f"version: got {version}, allowed {self.newest.version} or above")
        if base is not None and (base.base is not None or not (merged or weights.keys() <= base.names)):
            raise ValueError(f"base: got version {base.version}, allowed a whole publication with all of these tensors")
        spec = layout(weights, self._bucket_bytes)
        buckets = [[weights[tensor.name] for tensor in bucket] for bucket in by_bucket(spec)]
        ticket, digests = self._transport.send(spec, buckets, base.ticket if base else None)
        whole = checksum(spec, digests) + (f"-{base.checksum}" if base else "")
        publication = Publication(version, self._epoch, spec, ticket, digests, whole, probe, base)
        if self.newest is not None and self.newest.version == version:
            self._kept.pop()
        self._kept.append(publication)
        return publication

    def close(self) -> None:
        self._transport.close()


def receive_into(publication: Publication, own: Mapping[str, np.ndarray], deadline_s: float = FETCH_DEADLINE_S) -> None:
    """Copies the published tensors into arrays of the same names and shapes, and checks what arrived there.

    Raises TimeoutError after `deadline_s`; Superseded; CorruptWeights, after which `own` holds rubbish.
    """

    def room(name: str) -> np.ndarray:
        return own[name] if own[name].flags.c_contiguous else np.empty(own[name].shape, own[name].dtype)

    for name, array in receive(publication, room, deadline_s):
        if array is not own[name]:
            np.copyto(own[name], array)


def receive(
    publication: Publication, room: Callable[[str], np.ndarray], deadline_s: float = FETCH_DEADLINE_S
) -> Iterator[tuple[str, np.ndarray]]:
    """Copies each published tensor into the array that `room` gives for it, one after the other -> name, that array.

    Raises as `receive_into`; CorruptWeights only behind the last tensor, until which nothing may be relied on.
    """
    digests = []
    with publication.ticket.open(publication, deadline_s) as buckets:
        for bucket, specs in zip(buckets, by_bucket(publication.spec), strict=True):
            pieces, hashed = iter(bucket), xxhash.xxh3_64()
            for tensor in specs:
                array = room(tensor.name)
                copy_tensor(pieces, array, hashed)
                yield tensor.name, array
            digests.append(hashed.intdigest())
    _check(publication, digests)


def _check(publication: Publication, digests: Sequence[int]) -> None:
    base = f"-{publication.base.checksum}" if publication.base else ""
    if tuple(digests) == publication.digests and checksum(publication.spec, digests) + base == publication.checksum:
        return
    pairs = enumerate(zip(digests, publication.digests, strict=True))
    wrong = [number for number, (got, published) in pairs if got != published]
    where = f"bucket {wrong[0]} of {len(digests)}" if wrong else "the names and shapes"
    raise CorruptWeights(
        f"weights of version {publication.version}: checksum differs from the published one in {where}"
    )
