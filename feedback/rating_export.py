"""From the log to the table that systems are compared by (`evaluation.rating_table.SCHEMA`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from evaluation.rating_table import SCHEMA
from feedback.preference_log import PreferenceLog
from feedback.records import ExchangeReport
from feedback.schema import ratings
from feedback.tables import write_rows


def export_ratings(
    log: PreferenceLog, path: str | Path, study: str | None = None, min_heard_s: float = 0.0
) -> ExchangeReport:
    """Writes one Parquet file of all ratings of one moment; a system is the name under which a policy was served.

    study: None for all. min_heard_s: of each clip. Any consent allows it: the table is for counting, not for training.
    """
    report = ExchangeReport()
    with log.snapshot() as reader:
        found = _rows(reader.answered_rows(ratings, study), min_heard_s, report)
        report.take("ratings", write_rows(Path(path), SCHEMA, found))
    return report


def _rows(found: Iterator[RowMapping], min_heard_s: float, report: ExchangeReport) -> Iterator[dict[str, Any]]:
    for row in found:
        if row["policy_a"] == row["policy_b"]:
            report.leave_out(f"rating {row['rating_id']}", f"one system: both clips are of {row['policy_a']}")
        elif min(row["heard_a_s"], row["heard_b_s"]) < min_heard_s:
            heard = f"{row['heard_a_s']:.3g} s and {row['heard_b_s']:.3g} s"
            report.leave_out(f"rating {row['rating_id']}", f"not heard long enough: {heard}")
        else:
            yield {
                "rating_id": row["rating_id"],
                "prompt": row["prompt"],
                "system_a": row["policy_a"],
                "system_b": row["policy_b"],
                "rater": row["listener_id"],
                "rater_kind": row["kind"],
                "score_a": row["score_a"],
                "score_b": row["score_b"],
            }
