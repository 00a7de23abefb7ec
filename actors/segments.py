"""Segments: append-only Arrow IPC stream files, one schema and many record batches each; and a folder of them.

`pyarrow.ipc.open_stream` (or polars, or DuckDB) reads a segment at any time. A batch is durable once `append` returns:
written and fsynced. A writer that is killed in mid-write leaves a torn tail; opening the segment again finds the last
complete batch and cuts there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.storage import sync

SUFFIX = ".arrows"  # Arrow's name for the IPC stream format
PATTERN = f"segment_*{SUFFIX}"


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
        sync(path.parent)
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


class SegmentFolder:
    """The segments of one directory, in order. Opening it cuts torn ends; `found` is what was there, by file."""

    def __init__(self, directory: Path, segment_rows: int, retired: Iterable[str] = ()) -> None:
        """`retired`: names that were in use once and are deleted; they are never used again."""
        self._directory = directory
        self._segment_rows = segment_rows
        self._segments: dict[str, Segment] = {}
        self._rows_in_last = 0
        self._numbers = [_number(name) for name in retired]
        self.found: dict[str, list[Found]] = {}
        self.cut_bytes = 0
        for path in sorted(directory.glob(PATTERN)):
            self._open(path)

    @property
    def names(self) -> list[str]:
        """Oldest first; the last one is still written to."""
        return list(self._segments)

    @property
    def schema(self) -> pa.Schema | None:
        """Of the newest segment."""
        return self._segments[self.names[-1]].schema if self._segments else None

    def size_bytes(self, name: str | None = None) -> int:
        """Of one segment, or of all."""
        if name is not None:
            return self._segments[name].size_bytes
        return sum(segment.size_bytes for segment in self._segments.values())

    def append(self, batch: pa.RecordBatch) -> tuple[str, int]:
        """-> (segment, the byte at which the batch starts), durable. Raises OSError."""
        segment = self._segment_for(batch.schema)
        offset = segment.append(batch)
        self._rows_in_last += len(batch)
        return segment.path.name, offset

    def read(self, name: str, offset_bytes: int) -> pa.RecordBatch:
        return self._segments[name].read(offset_bytes)

    def delete(self, name: str) -> None:
        self._segments.pop(name).path.unlink(missing_ok=True)

    def _open(self, path: Path) -> None:
        segment, found, cut = Segment.reopen(path)
        self.cut_bytes += cut
        self._numbers.append(_number(path.name))
        if segment is not None:
            self._segments[path.name], self.found[path.name] = segment, found
            self._rows_in_last = sum(len(each.batch) for each in found)

    def _segment_for(self, schema: pa.Schema) -> Segment:
        """The last segment while it has room and the same schema, else a new one."""
        last = self._segments[self.names[-1]] if self._segments else None
        full = self._rows_in_last >= self._segment_rows
        if last is not None and not full and last.schema.equals(schema, check_metadata=True):
            return last
        self._numbers.append(max(self._numbers, default=-1) + 1)
        segment = Segment.create(self._directory / f"segment_{self._numbers[-1]:06d}{SUFFIX}", schema)
        self._segments[segment.path.name], self._rows_in_last = segment, 0
        return segment


def _number(name: str) -> int:
    return int(name.removeprefix("segment_").removesuffix(SUFFIX))


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


def _write(handle: int, content: bytes) -> None:
    """All of it, then fsync. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
    os.fsync(handle)
