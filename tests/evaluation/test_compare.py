"""Comparison of systems by ratings: figures worked out by hand, orientation, intervals by prompt, the command."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from evaluation.compare import main
from evaluation.data_table import read_csv
from evaluation.rating_report import write_standings
from evaluation.rating_table import SCHEMA, read_ratings
from evaluation.ratings import compare_systems, sums_by_prompt

PNG = b"\x89PNG\r\n\x1a\n"


def ratings(rows: list[tuple[str, str, str, int, int]]) -> pa.Table:
    """(prompt, system_a, system_b, score_a, score_b)."""
    full = [(f"r{i}", p, a, b, f"rater{i % 3}", "person", x, y) for i, (p, a, b, x, y) in enumerate(rows)]
    columns = zip(*full, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


BY_HAND = ratings(
    [
        ("p1", "base", "r", 2, 4),  # win of r
        ("p1", "r", "base", 5, 3),  # win of r
        ("p2", "base", "r", 3, 3),  # tie
        ("p2", "r", "base", 1, 4),  # loss of r
        ("p3", "r", "base", 4, 2),  # win of r
    ]
)


def test_figures_by_hand():
    standings = compare_systems(BY_HAND, ["base", "r"])
    duel = standings.duel("r", "base")
    assert (duel.ratings, duel.prompts) == (5, 3)
    assert (duel.win.value, duel.tie.value, duel.loss.value) == pytest.approx((0.6, 0.2, 0.2))
    assert duel.win_rate.value == pytest.approx(0.75)  # 3 / (3 + 1): the tie takes no part
    assert duel.mean_difference.value == pytest.approx((2 + 2 + 0 - 3 + 2) / 5)
    marks = {found.system: (found.mean.value, found.wins, found.ratings) for found in standings.systems}
    assert marks["r"] == (pytest.approx(17 / 5), 3, 5) and marks["base"] == (pytest.approx(14 / 5), 1, 5)
    assert [found.system for found in standings.systems] == ["r", "base"]


def test_seen_from_the_other_side():
    standings = compare_systems(BY_HAND, ["base", "r"])
    assert [(d.system, d.other) for d in standings.duels] == [("r", "base")]
    other = standings.duel("base", "r")
    assert (other.win.value, other.loss.value) == pytest.approx((0.2, 0.6))
    assert other.win_rate.value == pytest.approx(0.25) and other.win_rate.low <= 0.25 <= other.win_rate.high
    assert standings.duel("base", "nobody") is None


def test_test_is_over_prompts_not_over_ratings():
    """One prompt rated 30 times alike is one piece of evidence, not thirty."""
    standings = compare_systems(ratings([("p", "a", "b", 1, 5)] * 30), ["a", "b"])
    duel = standings.duel("b", "a")
    assert duel.p_value == 1.0 and not duel.significant
    assert duel.p_ratings < 1e-5
    assert (duel.win_rate.low, duel.win_rate.high) == (1.0, 1.0)


def test_interval_widens_when_ratings_of_a_prompt_agree():
    rng = np.random.default_rng(0)
    alike, apart = [], []
    for prompt in range(60):
        winner = rng.random() < 0.6
        alike += [(f"p{prompt}", "a", "b", 2, 3 if winner else 1)] * 3
    for prompt in range(180):
        apart.append((f"p{prompt}", "a", "b", 2, 3 if rng.random() < 0.6 else 1))
    wide = compare_systems(ratings(alike), ["a", "b"]).duel("b", "a").win_rate
    narrow = compare_systems(ratings(apart), ["a", "b"]).duel("b", "a").win_rate
    assert (wide.high - wide.low) > 1.4 * (narrow.high - narrow.low)


def test_holm_over_the_pairs_of_systems():
    rng = np.random.default_rng(1)
    rows = [
        (f"p{i}", one, other, int(rng.integers(1, 4)), int(rng.integers(1, 4)) + gain)
        for i in range(40)
        for one, other, gain in (("a", "b", 1), ("a", "c", 2), ("b", "c", 0))
    ]
    standings = compare_systems(ratings(rows), ["a", "b", "c"])
    plain = sorted(duel.p_value for duel in standings.duels)
    adjusted = sorted(duel.p_holm for duel in standings.duels)
    assert adjusted[0] == pytest.approx(3 * plain[0]) and adjusted[1] >= 2 * plain[1] - 1e-12
    assert standings.duel("c", "a").significant and not standings.duel("c", "b").significant
    assert [(d.system, d.other) for d in standings.duels] == [("b", "a"), ("c", "a"), ("c", "b")]


def test_only_ties_have_no_win_rate(tmp_path):
    standings = compare_systems(ratings([("p", "a", "b", 3, 3), ("q", "a", "b", 2, 2)]))
    assert np.isnan(standings.duels[0].win_rate.value) and standings.duels[0].tie.value == 1.0
    assert write_standings(standings, tmp_path)[-1].read_bytes().startswith(PNG)


def test_sums_by_prompt():
    assert sums_by_prompt(["b", "a", "b"], np.array([[1.0], [2.0], [3.0]])).tolist() == [[2.0], [4.0]]


def test_tables_and_figure_are_written(tmp_path):
    paths = write_standings(compare_systems(BY_HAND, ["base", "r"]), tmp_path / "out")
    assert [path.name for path in paths] == ["wins.csv", "marks.csv", "wins.png"]
    row = read_csv(paths[0]).to_pylist()[0]
    assert (row["system"], row["other"], row["win_rate"]) == ("r", "base", 0.75)
    assert row["win_rate_low"] <= 0.75 <= row["win_rate_high"]
    assert paths[2].read_bytes().startswith(PNG)


def test_command(tmp_path, capsys):
    pq.write_table(BY_HAND, tmp_path / "ratings.parquet")
    assert main([f"ratings={tmp_path}/ratings.parquet", "base", "r", f"out={tmp_path}/o"]) == 0
    out = capsys.readouterr().out
    assert "r : base" in out and "75.0 %" in out and (tmp_path / "o" / "wins.png").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a", "b"], "ratings: got nothing"),
        (["ratings=nowhere.parquet"], "allowed an existing Parquet file"),
        (["ratings={file}", "base", "nobody"], "systems: got 'nobody', allowed base, r"),
        (["ratings={file}", "base"], "systems: got 'base' alone"),
        (["ratings={file}", "colour=red"], "colour: unknown key"),
        (["ratings={file}", "raters=strangers"], "raters: got 'strangers', allowed simulated"),
    ],
)
def test_command_says_what_is_wrong(words, problem, tmp_path, capsys):
    pq.write_table(BY_HAND, tmp_path / "ratings.parquet")
    assert main([word.format(file=tmp_path / "ratings.parquet") for word in words]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def changed(column: str, values: list) -> pa.Table:
    return BY_HAND.set_column(SCHEMA.get_field_index(column), column, pa.array(values))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (changed("score_a", [2, 6, 3, 1, 4]), "row 2: got score_a 6, allowed 1 to 5"),
        (changed("score_b", [2, 3, 3, 0, 4]), "row 4: got score_b 0"),
        (changed("system_b", ["r", "r", "r", "base", "base"]), "row 2: got 'r' against itself"),
        (changed("rating_id", list("abcda")), "holds a rating_id twice"),
        (changed("prompt", ["p", None, "p", "p", "p"]), "does not fit .*prompt.*null"),
        (changed("score_a", ["x"] * 5), "does not fit"),
        (BY_HAND.drop(["rater"]), "has no column 'rater'"),
        (BY_HAND.slice(0, 0), "is empty"),
    ],
)
def test_wrong_ratings_are_refused(table, problem, tmp_path):
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(UserError, match=problem):
        read_ratings(tmp_path / "r.parquet")


def test_no_parquet_is_refused(tmp_path):
    (tmp_path / "r.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match="cannot be read"):
        read_ratings(tmp_path / "r.parquet")
