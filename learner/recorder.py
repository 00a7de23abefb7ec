"""Where a finished step is written down: the metrics table, the Prometheus exporter, the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from cluster.catalogue import STAGES
from cluster.member import PoolEvent
from cluster.metrics import MetricsTable, PrometheusExporter
from configs.schema import Config
from learner.progress import Progress
from learner.watchdog import Stall

STALLS = "stalls.log"  # of the run folder: every stall with its stacks
Row = dict[str, int | float]


class Recorder:
    """One per run. Raises UserError where metrics.port is taken."""

    def __init__(self, config: Config, run_dir: Path, progress: Progress, measure_memory: bool) -> None:
        self._progress = progress
        self._measure_memory = measure_memory
        self._table = MetricsTable(run_dir)
        self._stalls_path = run_dir / STALLS
        self._stalls: Counter[str] = Counter()
        self._exporter = PrometheusExporter(config.metrics.port, run_dir.name) if config.metrics.port else None

    def watch(self, read: Callable[[], Row]) -> None:
        """What Prometheus is to see live, between two rows."""
        if self._exporter is not None:
            self._exporter.watch(lambda: {**read(), **self._stall_counts()})

    def begin_at(self, version: int) -> None:
        """Forgets the rows of later steps: they will be made again."""
        self._table.truncate(version)
        last = self._table.last
        self._stalls = Counter({stage: int(last.get(f"stalls_{stage}") or 0) for stage in STAGES})

    def row(self, row: Row) -> None:
        """Durable on return."""
        row = {**row, **self._stall_counts()}
        if self._measure_memory:
            row = {**row, "memory_bytes": memory_bytes()}
        self._table.append(row)
        if self._exporter is not None:
            self._exporter.update(row)
        self._progress.update(row)

    def status(self, text: str) -> None:
        self._progress.status(text)

    def message(self, text: str) -> None:
        """An event that a person should know."""
        self._progress.message(text)

    def actors(self, text: str) -> None:
        """How many actors there are, for the panel."""
        self._progress.actors(text)

    def evaluated(self, means: dict[str, float]) -> None:
        self._progress.evaluated(means)

    def alarm(self, text: str) -> None:
        """An over-optimisation alarm that has begun to ring."""
        self._progress.alarm(text)

    def event(self, event: PoolEvent) -> None:
        if event.kind == "withdrawn":
            self._progress.message(f"the run goes on without {event.role} {event.index}: {event.reason}")
            return
        if event.kind != "timeout":
            what = f"died ({event.reason})" if event.kind == "died" else event.reason
            self._progress.message(f"{event.role} {event.index} {what}: replaced")
            return
        self._stalls[event.stage] += 1
        line = f"{event.role} {event.index} missed its deadline in {event.method} (stage {event.stage})"
        self._progress.message(f"{line}: replaced")
        self._keep_stacks(f"{line}\n{event.stacks}")

    def stall(self, stall: Stall) -> None:
        """Nothing gets done: told with the stacks of those who are waited for, and counted."""
        self._stalls.update(stall.stages.keys())
        self._progress.message(stall.report)
        self._keep_stacks(stall.report)

    def _stall_counts(self) -> Row:
        return {f"stalls_{stage}": self._stalls[stage] for stage in STAGES}

    def _keep_stacks(self, text: str) -> None:
        """Where a panel on the terminal does not roll them away. A disk that is the cause of it all may refuse."""
        with suppress(OSError), open(self._stalls_path, "a") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

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
