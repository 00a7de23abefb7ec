"""A run's replay folder as one table: every row that was ever stored and is still there, and what became of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from actors import rows as schema
from actors.replay_index import ReplayIndex, StoredTask, rebuild, stored_task
from actors.replay_log import LOG, read_log
from actors.segments import PATTERN, scan


def read_rows(directory: str | Path) -> pa.Table:
    """Every row of a run's replay folder, in the order of their inserts, for study. Touches nothing.

    Beside the columns of actors.rows: `trained_step` (null: not trained), `staleness` (versions, when first trained)
    and `dropped` (by a recovery or given up).
    """
    folder, index = Path(directory), ReplayIndex()
    scans = {path.name: scan(path)[1] for path in sorted(folder.glob(PATTERN))}
    batches = {
        (name, f.offset_bytes): f.batch for name, found in scans.items() for f in found if schema.intact(f.batch)
    }
    tasks = [stored_task(batch, *place) for place, batch in batches.items()]
    rebuild(index, tasks, read_log(folder / LOG))
    parts = []
    for task in sorted(tasks, key=lambda each: each.insert_order):
        live = index.tasks.get(task.task_id) is task
        parts.append(_with_fate(batches[task.segment, task.offset_bytes], task, live))
    return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})


def _with_fate(batch: pa.RecordBatch, task: StoredTask, live: bool) -> pa.Table:
    steps: list[int | None] = [None] * len(batch)
    for rows, step in reversed(task.trained if live else []):
        for row in rows:
            steps[row] = step
    dropped = [not live or (task.given_up and step is None) for step in steps]
    staleness = [None if step is None else step - 1 - task.policy_version for step in steps]
    table = pa.Table.from_batches([batch]).append_column("trained_step", pa.array(steps, pa.int64()))
    return table.append_column("staleness", pa.array(staleness, pa.int64())).append_column("dropped", pa.array(dropped))
