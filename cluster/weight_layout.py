"""How tensors lie in buckets, how they are copied, and how a copy is checked.

A copy and its digest are made in one pass, piece by piece, so that the bytes are hashed while they are still in the
cache: checking costs a quarter of a plain copy instead of a second trip through memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

ALIGNMENT_BYTES = 64  # every tensor starts on a cache line, whatever its dtype
PIECE_BYTES = 512 * 2**10  # fits the second-level cache twice


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


def views(flat: np.ndarray, bucket: Sequence[TensorSpec]) -> list[np.ndarray]:
    """A flat bucket [n] uint8 -> its tensors, without a copy."""
    return [
        flat[t.offset_bytes : t.offset_bytes + t.size_bytes].view(np.dtype(t.dtype)).reshape(t.shape) for t in bucket
    ]


def pieces(tensors: Iterable[np.ndarray]) -> list[memoryview]:
    """The bytes of the tensors in order, to be read, at most PIECE_BYTES at a time.

    No piece holds parts of two tensors. A tensor that does not lie in one piece is copied.
    """
    whole = [bytes_of(tensor).toreadonly() for tensor in tensors]
    return [run[begin : begin + PIECE_BYTES] for run in whole for begin in range(0, len(run), PIECE_BYTES)]


def bytes_of(tensor: np.ndarray) -> memoryview:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def digest(tensors: Iterable[np.ndarray]) -> int:
    """XXH3 (64 bits) over the contents of a bucket's tensors, in order."""
    hashed = xxhash.xxh3_64()
    for tensor in tensors:
        hashed.update(bytes_of(tensor))
    return hashed.intdigest()


def copy_with_digest(sources: Iterable[memoryview], own: Iterable[np.ndarray]) -> int:
    """Copies pieces of bytes into the tensors that they make up -> digest of what arrived there."""
    hashed, source = xxhash.xxh3_64(), iter(sources)
    for tensor in own:
        copy_tensor(source, tensor, hashed)
    return hashed.intdigest()


def copy_tensor(sources: Iterator[memoryview], own: np.ndarray, hashed: xxhash.xxh3_64) -> None:
    """Copies the next pieces into a tensor that lies in one piece, and hashes what arrived there."""
    target, place = own.reshape(-1).view(np.uint8).data, 0
    while place < len(target):
        piece = next(sources)
        written = target[place : place + len(piece)]
        written[:] = piece
        hashed.update(written)
        place += len(piece)


def checksum(spec: Sequence[TensorSpec], digests: Sequence[int]) -> str:
    """Sixteen hex digits over names, dtypes, shapes, places and contents."""
    described = json.dumps([[t.name, t.dtype, t.shape, t.bucket, t.offset_bytes] for t in spec] + [list(digests)])
    return xxhash.xxh3_64_hexdigest(described.encode())
