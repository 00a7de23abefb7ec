"""Segments: append-only Arrow IPC stream files, one schema and many record batches each.

`pyarrow.ipc.open_stream` (or polars, or DuckDB) reads a segment at any time. A batch is durable once `append` returns:
written and fsynced. A writer that is killed in mid-write leaves a torn tail; opening the segment again finds the last
complete batch and cuts there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

SUFFIX = ".arrows"  # Arrow's name for the IPC stream format


@dataclass(frozen=True)
class Found:
    """A complete batch and the byte at which it starts."""

    offset_bytes: int
    batch: pa.RecordBatch


class Segment:
    """One file. `create` starts one, `reopen` recovers one; both can be appended to and read at random."""

    def __init__(self, path: Path, schema: pa.Schema, size_bytes: int) -> None:
        self.path = path
        self.schema = schema
        self.size_bytes = size_bytes

    @classmethod
    def create(cls, path: Path, schema: pa.Schema) -> Segment:
        """A new, durable, empty segment. Raises FileExistsError."""
        header = schema.serialize().to_pybytes()
        with open(path, "xb") as file:
            _write(file.fileno(), header)
        sync_directory(path.parent)
        return cls(path, schema, len(header))

    @classmethod
    def reopen(cls, path: Path) -> tuple[Segment | None, list[Found], int]:
        """-> (segment, its complete batches, bytes cut off its end); no segment where not even the schema is there."""
        length = path.stat().st_size
        schema, found, end = scan(path)
        if schema is None:
            path.unlink()
            return None, [], length
        if end < length:
            with open(path, "r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return cls(path, schema, end), found, length - end

    def append(self, batch: pa.RecordBatch) -> int:
        """-> the byte at which the batch starts. Durable on return; a failed write leaves the segment as it was.

        Raises OSError (a full disk, for one).
        """
        message, start = batch.serialize().to_pybytes(), self.size_bytes
        with open(self.path, "r+b") as file:
            file.seek(start)
            try:
                _write(file.fileno(), message)
            except OSError:
                os.ftruncate(file.fileno(), start)
                raise
        self.size_bytes = start + len(message)
        return start

    def read(self, offset_bytes: int) -> pa.RecordBatch:
        """The batch that starts there, as views of the mapped file."""
        with pa.memory_map(str(self.path)) as file:
            file.seek(offset_bytes)
            return pa.ipc.read_record_batch(pa.ipc.read_message(file), self.schema)


def scan(path: Path) -> tuple[pa.Schema | None, list[Found], int]:
    """-> (schema, complete batches, end of the last one in bytes). Stops at the first thing that is not whole."""
    if path.stat().st_size == 0:
        return None, [], 0
    with pa.memory_map(str(path)) as file:
        try:
            schema = pa.ipc.read_schema(pa.ipc.read_message(file))
        except (pa.ArrowInvalid, OSError, EOFError):
            return None, [], 0
        found: list[Found] = []
        end = file.tell()
        for batch in _batches(file, schema):
            found.append(Found(end, batch))
            end = file.tell()
        return schema, found, end


def _batches(file: pa.MemoryMappedFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            yield pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)
        except (pa.ArrowException, OSError, EOFError):
            return


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(handle: int, content: bytes) -> None:
    """All of it, then fsync. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
    os.fsync(handle)
