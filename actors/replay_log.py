"""The replay store's log: what happened to rows after they were stored. Append-only, a line a record, fsynced.

    CRC32 {"kind": "commit",  "step": 7, "rows": [[task, first, last], ...]}   trained in the step to version 7
    CRC32 {"kind": "recover", "version": 5, "before": 40}                      back to the checkpoint of version 5
    CRC32 {"kind": "drop",    "tasks": [...], "reason": "..."}                 their remaining rows are given up
    CRC32 {"kind": "reclaim", "segments": [...], "tasks": [...], "step": 3}    files that nobody needs any more

Records are applied in order. "before" is the insert order at that moment: what was inserted later is not meant.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.rows import split_row_id

LOG = "log.jsonl"
Record = dict[str, Any]


class ReplayLog:
    """Opens the log, cuts a torn tail, and appends. `records` are those found on opening."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records, end = _scan(path)
        length = path.stat().st_size if path.exists() else 0
        self.cut_bytes = length - end
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._handle, end)
        os.lseek(self._handle, end, os.SEEK_SET)
        os.fsync(self._handle)
        self._end = end

    def append(self, record: Record) -> None:
        """Durable on return. Raises OSError and leaves the log as it was."""
        line = _line(record)
        try:
            written = os.write(self._handle, line)
            if written != len(line):
                raise OSError(f"short write to {self._path}")
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self._end)
            os.lseek(self._handle, self._end, os.SEEK_SET)
            raise
        self._end += len(line)

    def close(self) -> None:
        os.close(self._handle)


def read_log(path: Path) -> list[Record]:
    """The complete records, without touching the file."""
    return _scan(path)[0]


def to_ranges(ids: Iterable[int]) -> list[list[int]]:
    """Row ids -> [[task, first, last], ...], the form in which a commit is written."""
    ranges: list[list[int]] = []
    for task, row in map(split_row_id, sorted(int(i) for i in ids)):
        if ranges and ranges[-1][0] == task and ranges[-1][2] == row - 1:
            ranges[-1][2] = row
        else:
            ranges.append([task, row, row])
    return ranges


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _scan(path: Path) -> tuple[list[Record], int]:
    """-> (records, end of the last complete one in bytes)."""
    records: list[Record] = []
    end = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        check, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or check != f"{zlib.crc32(text):08x}".encode():
            break
        records.append(json.loads(text))
        end += len(line)
    return records, end
