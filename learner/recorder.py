"""Where a finished step is written down: the metrics table, the Prometheus exporter, the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from cluster.metrics import MetricsTable, PrometheusExporter
from cluster.supervision import PoolEvent
from configs.schema import Config
from learner.progress import Progress

Row = dict[str, int | float]


class Recorder:
    """One per run. Raises UserError where metrics.port is taken."""

    def __init__(self, config: Config, run_dir: Path, progress: Progress, measure_memory: bool) -> None:
        self._progress = progress
        self._measure_memory = measure_memory
        self._table = MetricsTable(run_dir)
        self._exporter = PrometheusExporter(config.metrics.port, run_dir.name) if config.metrics.port else None

    def watch(self, read: Callable[[], Row]) -> None:
        """What Prometheus is to see live, between two rows."""
        if self._exporter is not None:
            self._exporter.watch(read)

    def begin_at(self, version: int) -> None:
        """Forgets the rows of later steps: they will be made again."""
        self._table.truncate(version)

    def row(self, row: Row) -> None:
        """Durable on return."""
        if self._measure_memory:
            row = {**row, "memory_bytes": memory_bytes()}
        self._table.append(row)
        if self._exporter is not None:
            self._exporter.update(row)
        self._progress.update(row)

    def status(self, text: str) -> None:
        self._progress.status(text)

    def evaluated(self, means: dict[str, float]) -> None:
        self._progress.evaluated(means)

    def alarm(self, text: str) -> None:
        """An over-optimisation alarm that has begun to ring."""
        self._progress.alarm(text)

    def event(self, event: PoolEvent) -> None:
        what = "missed its deadline" if event.kind == "timeout" else f"died ({event.reason})"
        self._progress.message(f"{event.role} {event.index} {what}: replaced")

    def close(self) -> None:
        self._table.close()
        if self._exporter is not None:
            self._exporter.close()


def memory_bytes() -> int:
    """Resident memory of this process and all below it; shared pages count in each."""
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
