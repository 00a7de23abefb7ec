"""The catalogue of metrics, the durable table of a run, and what Prometheus reads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.catalogue import CATALOGUE, STAGES, find_metric, is_reproducible, markdown
from cluster.errors import UserError
from cluster.ledger import STAGES as LEDGER_STAGES
from cluster.metrics import MetricsTable, PrometheusExporter
from configs.paths import PROJECT_ROOT


def row(step: int, **more: float) -> dict[str, float]:
    return {"learner_step": step, "reward": step / 3, "kl": 0.1, "reward_quality": 3.5, "seconds_learn": 0.2, **more}


# ---- the catalogue ------------------------------------------------------------------------------------------------


def test_the_page_in_docs_is_up_to_date():
    page = (PROJECT_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m cluster.catalogue > docs/metrics.md"


def test_entries_are_unique_prometheus_names_with_unit_and_meaning():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch("[a-z][a-z0-9_]*(NAME|STAGE|ROLE)?", metric.name)
        assert metric.unit and metric.meaning.endswith(".")


def test_stages_are_those_of_the_ledger():
    assert set(STAGES) == set(LEDGER_STAGES)


def test_a_plain_entry_goes_before_its_family():
    assert find_metric("reward_std").name == "reward_std"
    assert find_metric("reward_quality").name == "reward_NAME"
    assert find_metric("seconds_step").name == "seconds_step"
    assert find_metric("seconds_learn").name == "seconds_STAGE"


@pytest.mark.parametrize("name", ["rewrad", "seconds_dance", "busy_", "restarts_cook", "reward_", "kl "])
def test_a_name_that_is_not_there_is_an_error(name: str):
    with pytest.raises(KeyError, match="not in cluster/catalogue"):
        find_metric(name)


def test_clock_marks_what_a_second_run_may_differ_in():
    assert is_reproducible("reward_quality") and is_reproducible("kl")
    assert not is_reproducible("seconds_learn") and not is_reproducible("time_unix")


# ---- the table ----------------------------------------------------------------------------------------------------


def test_rows_are_on_disk_when_append_returns(tmp_path: Path):
    table = MetricsTable(tmp_path)
    for step in (1, 2, 3):
        table.append(row(step))
        read = pq.read_table(tmp_path / "metrics.parquet")
        assert read.column("learner_step").to_pylist() == list(range(1, step + 1))
    assert read.schema.field("learner_step").type == pa.int64() and read.schema.field("kl").type == pa.float64()
    assert read.column_names == ["learner_step", "reward", "reward_quality", "kl", "seconds_learn"]
    assert table.rows() == [row(1), row(2), row(3)]


def test_a_value_that_a_row_lacks_is_null(tmp_path: Path):
    table = MetricsTable(tmp_path)
    table.append(row(1))
    table.append(row(2, judge_attributes=0.5))
    assert pq.read_table(tmp_path / "metrics.parquet").column("judge_attributes").to_pylist() == [None, 0.5]


def test_values_come_back_bit_for_bit_after_reopening(tmp_path: Path):
    values = [0.1 + 0.2, 1e-308, -0.0, float(np.float32(1) / 3), float("inf")]
    table = MetricsTable(tmp_path)
    for step, value in enumerate(values, start=1):
        table.append({"learner_step": np.int64(step), "reward": np.float64(value)})
    table.append({"learner_step": 9, "reward": float("nan")})
    back = [stored["reward"] for stored in MetricsTable(tmp_path).rows()]
    assert [value.hex() for value in back[:-1]] == [value.hex() for value in values]
    assert back[-1] != back[-1]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"learner_step": 2, "rewrad": 1.0}, KeyError),
        ({"reward": 1.0}, ValueError),
        ({"learner_step": 1}, ValueError),
        ({"learner_step": 2.5}, ValueError),
        ({"learner_step": 2, "reward": "high"}, ValueError),
    ],
)
def test_a_wrong_row_is_refused_and_leaves_no_trace(tmp_path: Path, bad: dict, error: type[Exception]):
    table = MetricsTable(tmp_path)
    table.append(row(1))
    with pytest.raises(error):
        table.append(bad)
    assert MetricsTable(tmp_path).rows() == [row(1)]


def test_truncate_drops_what_a_resume_makes_again(tmp_path: Path):
    table = MetricsTable(tmp_path)
    for step in range(1, 8):
        table.append(row(step, reward_brief=1.0) if step > 4 else row(step))
    assert table.truncate(after_step=4) == 3
    assert "reward_brief" not in pq.read_table(tmp_path / "metrics.parquet").column_names
    table.append(row(5, reward=9.0))
    assert [(r["learner_step"], r["reward"]) for r in MetricsTable(tmp_path).rows()][-2:] == [(4, 4 / 3), (5, 9.0)]


def test_a_torn_line_at_the_end_is_cut(tmp_path: Path):
    table = MetricsTable(tmp_path)
    table.append(row(1))
    with open(tmp_path / "metrics.jsonl", "ab") as journal:
        journal.write(b'{"learner_step":2,"rew')
    again = MetricsTable(tmp_path)
    again.append(row(2))
    assert MetricsTable(tmp_path).rows() == [row(1), row(2)]


def test_long_tables_are_rewritten_seldom_and_whole_after_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.metrics.ROWS_PER_LACKING_ROW", 10)
    table = MetricsTable(tmp_path)
    lacking = []
    for step in range(1, 46):
        table.append({"learner_step": step, "reward": 0.0})
        lacking.append(step - pq.read_metadata(tmp_path / "metrics.parquet").num_rows)
    assert lacking[:10] == [0] * 9 + [1] and max(lacking) == 4
    table.close()
    assert pq.read_metadata(tmp_path / "metrics.parquet").num_rows == 45


_ENDLESS = """
import sys
from cluster.metrics import MetricsTable
table = MetricsTable(sys.argv[1])
step = len(table)
while True:
    step += 1
    table.append({"learner_step": step, "reward": float(step)})
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_loses_no_acknowledged_row(tmp_path: Path):
    acknowledged = 0
    for lines in (1, 9):
        writer = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, cwd=PROJECT_ROOT, text=True
        )
        assert writer.stdout
        for _ in range(lines):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        acknowledged = int(rest[-1]) if rest else acknowledged
        writer.wait()
        before_reopening = pq.read_table(tmp_path / "metrics.parquet").column("learner_step").to_pylist()
        assert before_reopening == list(range(1, len(before_reopening) + 1))
        steps = [stored["learner_step"] for stored in MetricsTable(tmp_path).rows()]
        assert steps == list(range(1, len(steps) + 1)) and acknowledged <= len(steps) <= acknowledged + 1


# ---- Prometheus ---------------------------------------------------------------------------------------------------


def test_the_exporter_serves_the_newest_values_under_their_columns_names():
    exporter = PrometheusExporter(0, "tiny_r-1")  # 0: any free port
    try:
        exporter.update(row(1, restarts_scorer=2))
        exporter.update(row(2))
        exporter.watch(lambda: {"stalled_learn": 3.5})
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        exporter.close()
    values = dict(
        re.findall(r'^musicrl_(\w+)\{(?:\w+="\w+",)?run="tiny_r-1"(?:,\w+="\w+")?\} (\S+)$', text, flags=re.MULTILINE)
    )
    assert {name: float(value) for name, value in values.items()} == row(2, restarts_scorer=2, stalled_learn=3.5)
    assert 'musicrl_restarts_scorer{role="scorer",run="tiny_r-1"}' in text
    assert 'musicrl_stalled_learn{run="tiny_r-1",stage="learn"}' in text


def test_a_taken_port_is_one_clear_line():
    first = PrometheusExporter(0, "a")
    try:
        with pytest.raises(UserError, match=rf"^metrics.port: got {first.port}, "):
            PrometheusExporter(first.port, "b")
    finally:
        first.close()
