"""Where metrics go: one durable row per learner step on disk, and the newest values to Prometheus."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily

from cluster.catalogue import PREFIX, column_order, find_metric
from cluster.errors import UserError
from cluster.storage import write_bytes_atomic, write_parquet_atomic

Row = dict[str, int | float]

ROWS_PER_LACKING_ROW = 200  # metrics.parquet may lack one row for so many that it has


class MetricsTable:
    """`metrics.parquet` of a run: a row per learner step, in order, its columns from the catalogue.

    A row is durable when `append` returns: it goes to the journal `metrics.jsonl` first, then the Parquet file is
    written anew and renamed into place, so that a reader finds a whole file at any moment. Long runs rewrite it only
    when it lacks half a percent of the rows; `close` brings it up to date, and so does opening the table after a kill.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "metrics.parquet"
        self.journal_path = Path(run_dir) / "metrics.jsonl"
        self._rows = _read_journal(self.journal_path)
        self._write_journal()
        self._write_parquet()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def last(self) -> Row:
        """The newest row; empty where there is none."""
        return self._rows[-1] if self._rows else {}

    def append(self, row: Mapping[str, int | float]) -> None:
        """Adds the row of the next learner step.

        Raises:
            KeyError: a name that is not in the catalogue.
            ValueError: no `learner_step`, or one that is not above the last row's.
        """
        clean: Row = {name: _as_number(name, row[name]) for name in sorted(row, key=column_order)}
        if "learner_step" not in clean or (self._rows and clean["learner_step"] <= self._rows[-1]["learner_step"]):
            last = self._rows[-1]["learner_step"] if self._rows else "none"
            raise ValueError(f"row of learner_step {row.get('learner_step')} after {last}")
        with open(self.journal_path, "ab") as journal:
            journal.write(_line(clean))
            journal.flush()
            os.fsync(journal.fileno())
        self._rows.append(clean)
        if len(self._rows) - self._in_parquet > len(self._rows) // ROWS_PER_LACKING_ROW:
            self._write_parquet()

    def truncate(self, after_step: int) -> int:
        """Drops the rows of steps above `after_step`, as a resume from that step asks. -> rows dropped."""
        kept = [row for row in self._rows if row["learner_step"] <= after_step]
        dropped = len(self._rows) - len(kept)
        self._rows = kept
        self._write_journal()
        self._write_parquet()
        return dropped

    def rows(self) -> list[Row]:
        """All rows, oldest first; a name is absent where its row did not have it."""
        return [dict(row) for row in self._rows]

    def close(self) -> None:
        """Brings metrics.parquet up to date."""
        self._write_parquet()

    def _write_journal(self) -> None:
        write_bytes_atomic(self.journal_path, b"".join(map(_line, self._rows)))

    def _write_parquet(self) -> None:
        write_parquet_atomic(self.path, to_table(self._rows))
        self._in_parquet = len(self._rows)


def to_table(rows: list[Row]) -> pa.Table:
    """Rows -> one column per name, in the catalogue's order; null where a row lacks the name."""
    names = sorted({name for row in rows for name in row} | {"learner_step"}, key=column_order)
    types = {name: pa.int64() if find_metric(name).whole else pa.float64() for name in names}
    columns = [pa.array([row.get(name) for row in rows], type=types[name]) for name in names]
    return pa.table(columns, names=names)


class PrometheusExporter:
    """Serves the newest row on `port` of all interfaces, each metric with the label `run`, members of families with one
    more (`reward_quality` with name="quality"); and what is read live.

    Raises UserError if the port is taken.
    """

    def __init__(self, port: int, run_name: str) -> None:
        self._newest: Row = {}
        self._live: Callable[[], Row] = dict
        self._run_name = run_name
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, registry=registry)
        except OSError as error:
            raise UserError(f"metrics.port: got {port}, which cannot be served: {error.strerror}") from None
        self.port = self._server.server_port

    def update(self, row: Mapping[str, int | float]) -> None:
        """Takes a row; names that it lacks keep their last value."""
        self._newest = {**self._newest, **{name: _as_number(name, value) for name, value in row.items()}}

    def watch(self, read: Callable[[], Row]) -> None:
        """`read` gives live values whenever somebody asks; it is called from the exporter's own thread."""
        self._live = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = {**self._newest, **self._live()}
        for name, value in sorted(values.items(), key=lambda item: column_order(item[0])):
            metric = find_metric(name)
            labels = {"run": self._run_name, **metric.labels(name)}
            family = GaugeMetricFamily(PREFIX + name, f"{metric.meaning} [{metric.unit}]", labels=list(labels))
            family.add_metric(list(labels.values()), value)
            yield family

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _as_number(name: str, value: int | float) -> int | float:
    """Python's own number (numpy's become it), whole where the catalogue says so. Raises ValueError for a fraction."""
    if not find_metric(name).whole:
        return float(value)
    if int(value) != value:
        raise ValueError(f"{name}: {value} is not whole")
    return int(value)


def _line(row: Row) -> bytes:
    # Python writes and reads NaN and the shortest exact form of each float: the journal loses nothing.
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _read_journal(path: Path) -> list[Row]:
    """The journal's whole lines; kill -9 can leave a torn one at the end, whose step was not acknowledged."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
