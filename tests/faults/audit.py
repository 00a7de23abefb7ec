"""What a run was promised against what it has: rows acknowledged, lost, trained twice.

The journal (tests.faults.audited_main) is written where the answers arrive; the rows are read from the disk. Neither
knows of the other, so a promise that the store forgot shows.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.replay_table import read_rows
from actors.rows import row_ids


@dataclass(frozen=True)
class Audit:
    """Rows. `lost` and `twice` hold row ids."""

    acknowledged: int
    trained: int
    lost: tuple[int, ...]  # acknowledged as stored or as trained, and on the disk they are not
    twice: tuple[int, ...]  # trained in two steps of the history that counts, or stored twice


def audit(journal: Path, replay: Path) -> Audit:
    """A recovery to version v takes back what came after v: rows of later weights and steps after v. What it takes back
    is made again under the same number, so it is neither lost nor trained twice."""
    stored: dict[int, int] = {}  # row -> version
    commits: list[tuple[int, int]] = []  # (row, step)
    given_up: set[int] = set()
    for record in _records(journal):
        match record["kind"]:
            case "insert":
                rows = row_ids(record["task"], range(record["new"]))
                stored |= {int(row): record["version"] for row in rows}
            case "commit":
                commits += [(row, record["step"]) for row in record["rows"]]
            case "drop":
                given_up |= set(record["tasks"])
            case "recover":
                version = record["version"]
                stored = {row: of for row, of in stored.items() if of <= version}
                commits = [(row, step) for row, step in commits if step <= version]
    found = [row for row in read_rows(replay).to_pylist() if not row["dropped"] or row["task_id"] in given_up]
    trained = {row["row_id"]: row["trained_step"] for row in found if row["trained_step"] is not None}
    forgotten = {row for row, step in commits if trained.get(row) != step}
    lost = (stored.keys() - {row["row_id"] for row in found}) | forgotten
    twice = _several(row for row, _ in set(commits)) | _several(row["row_id"] for row in found)
    return Audit(len(stored), len(trained), tuple(sorted(lost)), tuple(sorted(twice)))


def _records(journal: Path) -> list[dict[str, Any]]:
    """A kill can tear the last line of a process that was killed; another may have written behind it."""
    records = []
    for line in journal.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _several(rows: Any) -> set[int]:
    return {row for row, count in Counter(rows).items() if count > 1}
