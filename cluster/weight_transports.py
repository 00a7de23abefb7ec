"""Ways for weights to travel, behind the port of cluster/weight_bus.py, and the one that a config chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from cluster.weight_bus import Buckets, Publication, Transport
from cluster.weight_layout import TensorSpec, bucket_sizes, by_bucket, copy_with_digest, digest, views
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

    A bucket is a list of arrays, which Ray copies straight into the store: no flat copy is made before.
    """

    def __init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "weights-digest")

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[StoredTicket, tuple[int, ...]]:
        digests = self._beside.submit(lambda: tuple(digest(bucket) for bucket in buckets))
        return StoredTicket(tuple(ray.put(bucket) for bucket in buckets)), digests.result()

    def close(self) -> None:
        self._beside.shutdown()


@dataclass(frozen=True)
class StoredTicket:
    """Buckets in the object store; alive as long as somebody holds the ticket."""

    references: tuple[Any, ...]

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[Buckets]:
        yield ray.get(list(self.references), timeout=deadline_s)


class InProcess:
    """Publisher and reader in one process: the ticket is the buckets."""

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[HeldTicket, tuple[int, ...]]:
        flat = tuple(np.zeros(size, np.uint8) for size in bucket_sizes(spec))
        places = [views(bucket, tensors, writeable=True) for bucket, tensors in zip(flat, by_bucket(spec), strict=True)]
        digests = tuple(copy_with_digest(*pair) for pair in zip(buckets, places, strict=True))
        return HeldTicket(flat), digests

    def close(self) -> None: ...


@dataclass(frozen=True)
class HeldTicket:
    """Flat buckets [n] uint8 in this process."""

    flat: tuple[np.ndarray, ...]

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[Buckets]:
        yield [views(flat, tensors) for flat, tensors in zip(self.flat, by_bucket(publication.spec), strict=True)]
