"""What a run folder holds, read for the report: any part may be missing, as in a run that has just begun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from evaluation.score_rows import SCHEMA, read_rows

FINAL_ROWS = "evaluation_final.parquet"
SUMMARY = "evaluation_summary.json"


@dataclass(frozen=True)
class RunData:
    """The tables of one run."""

    path: Path
    config_text: str
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]  # column -> [S] float64, by learner step
    rows: pa.Table  # evaluations during the run
    final_rows: pa.Table  # evaluation after the run (python -m evaluation.main), none if it was not made
    summary: dict[str, Any]  # evaluation_summary.json, {} if it was not made

    @property
    def steps(self) -> np.ndarray:
        return self.metrics.get("learner_step", np.empty(0))

    def column(self, name: str) -> np.ndarray | None:
        """A metrics column with at least one number in it, or None."""
        values = self.metrics.get(name)
        return values if values is not None and np.isfinite(values).any() else None

    def columns(self, prefix: str) -> dict[str, np.ndarray]:
        """PREFIX_name columns -> {name: values}, in the table's order."""
        names = [name for name in self.metrics if name.startswith(prefix) and self.column(name) is not None]
        return {name.removeprefix(prefix): self.metrics[name] for name in names}

    def stage_seconds(self) -> dict[str, np.ndarray]:
        """The time ledger: {stage: seconds of each step}. `seconds_step` is their sum and no stage."""
        return {name: values for name, values in self.columns("seconds_").items() if name != "step"}


def read_run(run_dir: Path | str) -> RunData:
    """Read a run folder. Raises FileNotFoundError where there is none."""
    path = Path(run_dir)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run folder")
    config_text = (path / "config.yaml").read_text() if (path / "config.yaml").exists() else ""
    return RunData(
        path,
        config_text,
        yaml.safe_load(config_text) or {},
        read_metrics(path / "metrics.parquet"),
        read_rows(path),
        pq.read_table(path / FINAL_ROWS, schema=SCHEMA) if (path / FINAL_ROWS).exists() else SCHEMA.empty_table(),
        json.loads((path / SUMMARY).read_text()) if (path / SUMMARY).exists() else {},
    )


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """metrics.parquet -> column -> [S] float64, by learner step; nothing where there is no file."""
    if not path.exists():
        return {}
    table = pq.read_table(path)
    numeric = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    columns = {name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in numeric}
    if "learner_step" not in columns:
        return columns
    order = np.argsort(columns["learner_step"], kind="stable")
    return {name: values[order] for name, values in columns.items()}
