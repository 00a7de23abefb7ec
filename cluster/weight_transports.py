"""Ways for weights to travel, behind the port of cluster/weight_bus.py, and the one that a config chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any

import numpy as np
import ray

from cluster.weight_bus import Buckets, Lent, Publication, Transport
from cluster.weight_layout import TensorSpec, bucket_sizes, by_bucket, copy_with_digest, digest, pieces, views
from configs.schema import WeightsConfig


def make_transport(weights: WeightsConfig) -> Transport:
    """The transport of `weights.backend`, for the publisher in a Ray actor."""
    if weights.backend == "object_store":
        return ObjectStore()
    from cluster.weight_broadcast import Collective

    return Collective(ray.util.get_node_ip_address(), weights.deadline_s)


class ObjectStore:
    """Ray's object store: a reader on the same node maps the bucket, one on another node fetches it once for all there,
    from any node that has it.

    Ray copies each piece straight into the store, so that no flat copy is made before. It starts threads for every
    buffer above 1 MB, which costs more than they win; the pieces are smaller.
    """

    def __init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "weights-digest")

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[StoredTicket, tuple[int, ...]]:
        digests = self._beside.submit(lambda: tuple(digest(bucket) for bucket in buckets))
        return StoredTicket(tuple(ray.put(_OutOfBand(pieces(bucket))) for bucket in buckets)), digests.result()

    def close(self) -> None:
        self._beside.shutdown()


@dataclass(frozen=True)
class StoredTicket:
    """Buckets in the object store; alive as long as somebody holds the ticket."""

    references: tuple[Any, ...]

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[Lent]:
        stored = ray.get(list(self.references), timeout=deadline_s)
        yield [[memoryview(piece).cast("B") for piece in bucket] for bucket in stored]


@dataclass(frozen=True)
class _OutOfBand:
    """Arrives as a list of buffers that lie in the object store."""

    pieces: list[memoryview]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, ([PickleBuffer(piece) for piece in self.pieces],)


class InProcess:
    """Publisher and reader in one process: the ticket is the buckets."""

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[HeldTicket, tuple[int, ...]]:
        flat = tuple(np.zeros(size, np.uint8) for size in bucket_sizes(spec))
        places = [views(bucket, tensors) for bucket, tensors in zip(flat, by_bucket(spec), strict=True)]
        digests = tuple(copy_with_digest(pieces(bucket), own) for bucket, own in zip(buckets, places, strict=True))
        return HeldTicket(flat), digests

    def close(self) -> None: ...


@dataclass(frozen=True)
class HeldTicket:
    """Flat buckets [n] uint8 in this process."""

    flat: tuple[np.ndarray, ...]

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[Lent]:
        yield [
            pieces(views(flat, tensors)) for flat, tensors in zip(self.flat, by_bucket(publication.spec), strict=True)
        ]
