"""The log's records as Arrow tables, one Parquet file each, for `feedback.exchange`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from cluster.storage import write_atomic

_TIME = pa.timestamp("us", tz="UTC")
_RANGES = pa.list_(pa.list_(pa.float64()))  # [[start, end], …] in seconds
_ROWS = 1000  # of one row group, held in memory at once


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name == "codes") for name, kind in columns.items()])


_TEXT, _WHOLE = pa.string(), pa.int64()
_ANSWER = {"pair_id": _TEXT, "listener_id": _TEXT, "played_a": _RANGES, "played_b": _RANGES}
LISTENERS = _schema(listener_id=_TEXT, kind=_TEXT, group=_TEXT)
CONSENTS = _schema(listener_id=_TEXT, consent=_TEXT, given_at=_TIME)
CLIPS = _schema(
    clip_id=_TEXT,
    prompt=_TEXT,
    policy=_TEXT,
    policy_version=_TEXT,
    seed=_WHOLE,
    sample_rate_hz=pa.int32(),
    seconds=pa.float64(),
    codes=pa.list_(pa.list_(pa.uint16())),  # [K][T]
    audio=_TEXT,
    original=_TEXT,
)
PAIRS = _schema(
    pair_id=_TEXT,
    prompt=_TEXT,
    clip_a=_TEXT,
    clip_b=_TEXT,
    study=_TEXT,
    created_at=_TIME,
    asked_by=_TEXT,
    origin=_TEXT,
)
VOTES = _schema(vote_id=_TEXT, **_ANSWER, choice=_TEXT, voted_at=_TIME, recorded_at=_TIME)
RATINGS = _schema(rating_id=_TEXT, **_ANSWER, score_a=pa.int8(), score_b=pa.int8(), rated_at=_TIME, recorded_at=_TIME)
DELETIONS = _schema(listener_hash=_TEXT, deleted_at=_TIME, votes=_WHOLE, ratings=_WHOLE, pairs=_WHOLE)


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes a Parquet file row group by row group, whole or not at all. -> number of rows."""
    written = 0

    def write(temporary: Path) -> None:
        nonlocal written
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in in_groups(rows, _ROWS):
                writer.write_table(pa.Table.from_pylist(group, schema))
                written += len(group)

    write_atomic(path, write)
    return written


def read_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file that has (at least) the columns of `schema`. Raises UserError naming the file."""
    try:
        with pq.ParquetFile(path) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            for field in schema:
                if found.get(field.name) != field.type:
                    got = found.get(field.name, "no such column")
                    raise UserError(f"path: got {path} with {field.name}: {got}, allowed {field.type}")
            for batch in file.iter_batches(_ROWS, columns=schema.names):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"path: got {path} ({str(error).splitlines()[0]}), allowed a whole Parquet file") from error


def in_groups(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of up to `size` rows."""
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
