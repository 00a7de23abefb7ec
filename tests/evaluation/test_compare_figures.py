"""Curve tables of runs, and the paper's figures drawn from tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.curve_table import COLUMNS, best_step, curve_table
from evaluation.data_table import read_csv, write_csv
from evaluation.figures import draw_accuracy, draw_over_optimisation, draw_reward_against_kl
from evaluation.rating_report import wins_table
from evaluation.ratings import compare_systems
from evaluation.score_rows import append_rows, rows_table
from tests.evaluation.test_compare import ratings

PNG = b"\x89PNG\r\n\x1a\n"


def write_run(folder, steps=(0, 10, 20), unscored=""):
    folder.mkdir()
    (folder / "config.yaml").write_text("rewards: {quality: {weight: 0.0}, preference: {weight: 1.0}}\n")
    for step in steps:
        scores = {"reward": np.array([step, step + 2.0]), "tempo": np.array([0.5, np.nan])}
        scores |= {"quality": np.full(2, 3.0), "preference": np.zeros(2)}
        if unscored and step == 0:
            scores[unscored] = np.full(2, np.nan)
        append_rows(folder, rows_table(step, [0, 1], ["p", "q"], [1, 2], scores, ["reward", "quality", "preference"]))
    metrics = pa.table({"learner_step": np.arange(1, 21), "kl_clip": np.arange(1, 21) * 1.0})
    pq.write_table(metrics, folder / "metrics.parquet")
    return folder


def test_curve_table_of_two_runs(tmp_path):
    table = curve_table({"R": write_run(tmp_path / "r"), "U": write_run(tmp_path / "u", (0, 10))}, resamples=50)
    assert table.schema == COLUMNS
    rows = {(r["system"], r["learner_step"], r["judge"]): r for r in table.to_pylist()}
    assert len(rows) == 20
    last = rows["R", 20, "reward"]
    assert (last["mean"], last["prompts"], last["in_reward"]) == (21.0, 2, True)
    assert last["kl_clip"] == np.mean(np.arange(11, 21))  # the mean of the ten steps up to it
    assert rows["R", 0, "reward"]["kl_clip"] == 0.0
    assert rows["R", 20, "preference"]["in_reward"] and not rows["R", 20, "tempo"]["in_reward"]
    assert not rows["R", 20, "quality"]["in_reward"]  # recorded with weight 0: the run does not train on it
    assert (rows["U", 10, "tempo"]["mean"], rows["U", 10, "tempo"]["prompts"]) == (0.5, 1)
    assert best_step(table, "R", "reward") == 20


def test_a_judge_without_a_score_has_no_row(tmp_path):
    table = curve_table({"R": write_run(tmp_path / "r", (0,), unscored="silent")}, resamples=50)
    assert "silent" not in table["judge"].to_pylist()


def test_figures_are_drawn_from_saved_tables(tmp_path):
    table = curve_table({"R": write_run(tmp_path / "r"), "U": write_run(tmp_path / "u", (0, 10))}, resamples=50)
    path = write_csv(tmp_path / "curves.csv", table)
    assert read_csv(path).num_rows == table.num_rows
    assert draw_reward_against_kl(path, tmp_path / "kl.png").read_bytes().startswith(PNG)
    assert draw_over_optimisation(path, tmp_path / "over.png").read_bytes().startswith(PNG)


def test_accuracy_figure(tmp_path):
    rows = [
        {"name": "full", "kind": "model", "accuracy": 0.6, "low": 0.58, "high": 0.62},
        {"name": "higher quality", "kind": "rule", "accuracy": 0.55, "low": 0.53, "high": 0.57},
        {"name": "best possible", "kind": "limit", "accuracy": 0.69, "low": 0.68, "high": 0.7},
    ]
    path = write_csv(tmp_path / "accuracy.csv", pa.Table.from_pylist(rows))
    assert draw_accuracy(path, tmp_path / "accuracy.png").read_bytes().startswith(PNG)


def test_the_table_behind_the_figure_says_who_rated():
    rated = ratings([(f"p{i}", "a", "b", 2, 4) for i in range(3)])
    kinds = set(rated["rater_kind"].to_pylist())
    assert set(wins_table(compare_systems(rated))["raters"].to_pylist()) == kinds
