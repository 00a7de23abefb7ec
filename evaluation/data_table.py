"""Small tables as CSV files, written whole: what a figure is drawn from lies beside it, to be read by anything."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from cluster.errors import UserError
from cluster.storage import write_bytes_atomic


def write_csv(path: str | Path, table: pa.Table) -> Path:
    """Missing values become empty fields. -> the path."""
    buffer = io.BytesIO()
    pc.write_csv(table, buffer)
    write_bytes_atomic(Path(path), buffer.getvalue())
    return Path(path)


def read_csv(path: str | Path) -> pa.Table:
    """Raises UserError where it cannot be read."""
    try:
        return pc.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"table: {path} cannot be read ({' '.join(str(error).split())})") from None
