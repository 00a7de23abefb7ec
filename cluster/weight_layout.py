"""How tensors lie in buckets, how they are copied, and how a copy is checked.

A copy and its digest are made in one pass, piece by piece, so that the bytes are hashed while they are still in the
cache: checking costs a quarter of a plain copy instead of a second trip through memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

ALIGNMENT_BYTES = 64  # every tensor starts on a cache line, whatever its dtype
PIECE_BYTES = 256 * 2**10  # fits the second-level cache twice


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


def layout(weights: Mapping[str, np.ndarray], bucket_bytes: int) -> tuple[TensorSpec, ...]:
    """Places the tensors, in their order, into as few buckets as `bucket_bytes` allows; a larger one gets its own."""
    spec: list[TensorSpec] = []
    bucket, offset = 0, 0
    for name, array in weights.items():
        if offset and offset + array.nbytes > bucket_bytes:
            bucket, offset = bucket + 1, 0
        spec.append(TensorSpec(name, array.dtype.str, tuple(array.shape), bucket, offset))
        offset += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(spec)


def by_bucket(spec: Sequence[TensorSpec]) -> list[list[TensorSpec]]:
    """The tensors of each bucket, in order."""
    buckets: list[list[TensorSpec]] = [[] for _ in range(1 + max((tensor.bucket for tensor in spec), default=-1))]
    for tensor in spec:
        buckets[tensor.bucket].append(tensor)
    return buckets


def bucket_sizes(spec: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Bytes of each flat bucket."""
    return tuple(bucket[-1].offset_bytes + bucket[-1].size_bytes for bucket in by_bucket(spec))


def views(flat: np.ndarray, bucket: Sequence[TensorSpec], writeable: bool = False) -> list[np.ndarray]:
    """A flat bucket [n] uint8 -> its tensors, without a copy."""
    flat = flat.view()
    flat.flags.writeable = writeable
    return [
        flat[t.offset_bytes : t.offset_bytes + t.size_bytes].view(np.dtype(t.dtype)).reshape(t.shape) for t in bucket
    ]


def digest(tensors: Iterable[np.ndarray]) -> int:
    """XXH3 (64 bits) over the contents of a bucket's tensors, in order."""
    hashed = xxhash.xxh3_64()
    for tensor in tensors:
        hashed.update(_bytes(tensor).data)
    return hashed.intdigest()


def copy_with_digest(sources: Iterable[np.ndarray], own: Iterable[np.ndarray]) -> int:
    """Copies each source to the array beside it -> digest of what arrived there."""
    hashed = xxhash.xxh3_64()
    for source, target in zip(sources, own, strict=True):
        if not target.flags.c_contiguous:
            np.copyto(target, source)
            hashed.update(_bytes(target).data)
            continue
        read, written = _bytes(source), target.reshape(-1).view(np.uint8)
        for begin in range(0, written.size, PIECE_BYTES):
            piece = written[begin : begin + PIECE_BYTES]
            np.copyto(piece, read[begin : begin + PIECE_BYTES])
            hashed.update(piece.data)
    return hashed.intdigest()


def checksum(spec: Sequence[TensorSpec], digests: Sequence[int]) -> str:
    """Sixteen hex digits over names, dtypes, shapes, places and contents."""
    described = json.dumps([[t.name, t.dtype, t.shape, t.bucket, t.offset_bytes] for t in spec] + [list(digests)])
    return xxhash.xxh3_64_hexdigest(described.encode())


def _bytes(array: np.ndarray) -> np.ndarray:
    """[n] uint8; a copy only where the array does not lie in one piece."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
