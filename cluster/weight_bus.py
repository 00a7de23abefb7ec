"""Policy weights from the learner to everybody who samples: publish, fetch, activate.

    learner --publish--> Publication (spec, checksums, probe, handles of a few flat buckets)
                              |  small, travels by value
    generator <--receive------+  read-only numpy views into the buckets: no copy on one node

The publication says which version and which incarnation of the run (epoch) the weights are from, and carries a probe:
a fixed sequence with the publisher's own mean log-probability of it, so that an activation that "succeeds" and changes
nothing is found out (actors.generator). Only the newest versions stay alive; a reader that comes late asks for the
newest publication, never for a number.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray

from cluster.errors import RunFailed

ALIGNMENT_BYTES = 64  # every tensor starts on a cache line, whatever its dtype
BUCKET_BYTES = 256 * 2**20
KEPT_VERSIONS = 2  # the one in use and the one being fetched


@dataclass(frozen=True)
class TensorSpec:
    """Where one tensor lies: bytes [offset, offset + size) of bucket `bucket`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bucket: int
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


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
    """One version of the weights, ready to be fetched. `handles` mean something to the transport only."""

    version: int
    epoch: str
    spec: tuple[TensorSpec, ...]
    handles: tuple[Any, ...]
    bucket_crc32: tuple[int, ...]
    checksum: str  # over spec and buckets; echoed by whoever activates
    probe: Probe | None = None


class Transport(Protocol):
    """How a flat bucket travels. A collective backend (broadcast into preallocated GPU buckets) is one more class."""

    def put(self, bucket: np.ndarray) -> Any:
        """bucket [n] uint8 -> handle that survives being sent to another process."""
        ...

    def get(self, handles: Sequence[Any], deadline_s: float) -> list[np.ndarray]:
        """Handles -> buckets [n] uint8, read-only. Raises TimeoutError after `deadline_s`."""
        ...


class ObjectStore:
    """Ray's object store: a reader on the same node maps the bucket, one on another node fetches it once."""

    def put(self, bucket: np.ndarray) -> Any:
        return ray.put(bucket)

    def get(self, handles: Sequence[Any], deadline_s: float) -> list[np.ndarray]:
        return ray.get(list(handles), timeout=deadline_s)


class InProcess:
    """Publisher and reader in one process: the handle is the bucket."""

    def put(self, bucket: np.ndarray) -> Any:
        bucket.flags.writeable = False
        return bucket

    def get(self, handles: Sequence[Any], deadline_s: float) -> list[np.ndarray]:
        return list(handles)


class WeightBus:
    """The publisher's end. Keeps the newest `KEPT_VERSIONS` publications, and with them their buckets, alive."""

    def __init__(self, epoch: str, transport: Transport | None = None, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._epoch = epoch
        self._transport = transport or ObjectStore()
        self._bucket_bytes = bucket_bytes
        self._kept: deque[Publication] = deque(maxlen=KEPT_VERSIONS)

    @property
    def kept(self) -> tuple[Publication, ...]:
        """Versions that can still be fetched, oldest first."""
        return tuple(self._kept)

    @property
    def newest(self) -> Publication | None:
        return self._kept[-1] if self._kept else None

    def publish(self, weights: Mapping[str, np.ndarray], version: int, probe: Probe | None = None) -> Publication:
        """Copies the weights into flat buckets and hands them to the transport.

        Raises ValueError when `version` is not newer than the newest one.
        """
        if self.newest is not None and version <= self.newest.version:
            raise ValueError(f"version: got {version}, allowed above {self.newest.version}")
        spec = layout(weights, self._bucket_bytes)
        buckets = pack(weights, spec)
        crcs = tuple(zlib.crc32(bucket.data) for bucket in buckets)
        handles = tuple(self._transport.put(bucket) for bucket in buckets)
        publication = Publication(version, self._epoch, spec, handles, crcs, checksum(spec, crcs), probe)
        self._kept.append(publication)
        return publication


def receive(
    publication: Publication, transport: Transport | None = None, deadline_s: float = 60.0
) -> dict[str, np.ndarray]:
    """The reader's end: fetches the buckets and checks them. -> name to read-only view, without a copy on one node.

    Raises TimeoutError after `deadline_s`; RunFailed when what arrived is not what was published.
    """
    buckets = (transport or ObjectStore()).get(publication.handles, deadline_s)
    crcs = tuple(zlib.crc32(bucket.data) for bucket in buckets)
    if crcs != publication.bucket_crc32 or checksum(publication.spec, crcs) != publication.checksum:
        raise RunFailed(f"weights of version {publication.version}: checksum differs from the published one")
    return {tensor.name: _view(buckets[tensor.bucket], tensor) for tensor in publication.spec}


def layout(weights: Mapping[str, np.ndarray], bucket_bytes: int = BUCKET_BYTES) -> tuple[TensorSpec, ...]:
    """Places the tensors, in their order, into as few buckets as `bucket_bytes` allows; a larger one gets its own."""
    spec: list[TensorSpec] = []
    bucket, offset = 0, 0
    for name, array in weights.items():
        if offset and offset + array.nbytes > bucket_bytes:
            bucket, offset = bucket + 1, 0
        spec.append(TensorSpec(name, array.dtype.str, tuple(array.shape), bucket, offset))
        offset += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(spec)


def pack(weights: Mapping[str, np.ndarray], spec: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Tensors -> flat uint8 buckets; the gaps between tensors are zero, so that equal weights have equal checksums."""
    sizes: dict[int, int] = {}
    for tensor in spec:
        sizes[tensor.bucket] = tensor.offset_bytes + tensor.size_bytes
    buckets = [np.zeros(sizes[index], dtype=np.uint8) for index in sorted(sizes)]
    for tensor in spec:
        _view(buckets[tensor.bucket], tensor)[...] = weights[tensor.name]
    return buckets


def checksum(spec: Sequence[TensorSpec], bucket_crc32: Sequence[int]) -> str:
    """Eight hex digits over names, dtypes, shapes, places and contents."""
    described = json.dumps([[t.name, t.dtype, t.shape, t.bucket, t.offset_bytes] for t in spec] + [list(bucket_crc32)])
    return f"{zlib.crc32(described.encode()):08x}"


def _view(bucket: np.ndarray, tensor: TensorSpec) -> np.ndarray:
    flat = bucket[tensor.offset_bytes : tensor.offset_bytes + tensor.size_bytes]
    return flat.view(np.dtype(tensor.dtype)).reshape(tensor.shape)
