"""Simulated raters: marks by their cuts, balanced sides, and that the better system wins."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from simulated_parts import random_heard

from evaluation.rating_table import SCHEMA, check_ratings
from evaluation.ratings import compare_systems
from feedback.simulated_compare import main, named_policies
from feedback.simulated_parameters import Raters, load_parameters
from feedback.simulated_raters import draw_raters, marks_of, simulated_ratings
from tests.evaluation.tiny_parts import PROMPTS, tiny_policy, write_parts

PARAMETERS = load_parameters()
TEXTS = [f"prompt {i}" for i in range(101)]


def test_marks_by_the_cuts():
    quiet = dataclasses.replace(PARAMETERS, raters=Raters(np.ones(3), 0.0, 0.0, np.array([-1.0, 0.0, 1.0, 2.0])))
    worth = np.array([-5.0, -0.5, 0.5, 1.5, 9.0])
    assert marks_of(worth, quiet, np.random.default_rng(0)).tolist() == [1, 2, 3, 4, 5]


def test_raters_are_careful_and_weigh_alike():
    panel = draw_raters(PARAMETERS, 0)
    assert not panel.spam.any() and not panel.short_attention.any() and (panel.louder_per_db == 0).all()
    assert all(name.startswith("simulated-rater") for name in panel.names)
    logs = np.log(panel.weights / PARAMETERS.raters.weights)
    assert abs(logs.mean()) < 0.1 and abs(logs.std() - PARAMETERS.weight_spread) < 0.05


def test_every_pair_gets_three_raters_on_balanced_sides():
    heard = {name: random_heard(PARAMETERS, 101, seed) for seed, name in enumerate("abc")}
    table = simulated_ratings(heard, TEXTS, PARAMETERS, 0)
    assert table.schema.equals(SCHEMA) and len(table) == 3 * 303
    check_ratings(table, "here")
    assert set(table["rater_kind"].to_pylist()) == {"simulated"}
    sides = Counter(zip(table["system_a"].to_pylist(), table["system_b"].to_pylist(), strict=True))
    assert all(abs(sides[a, b] - sides[b, a]) <= 3 for a, b in sides)
    raters = Counter(zip(table["prompt"].to_pylist(), table["rater"].to_pylist(), strict=True))
    first = [r for p, r in zip(table["prompt"].to_pylist(), table["rater"].to_pylist(), strict=True) if p == "prompt 0"]
    assert len(set(first[:3])) == 3 and max(raters.values()) <= 3


def test_the_better_system_wins_and_equal_ones_do_not():
    base = random_heard(PARAMETERS, 101, 0)
    better = dataclasses.replace(base, quality=np.clip(base.quality + 0.25, 0, 1))
    table = simulated_ratings({"base": base, "same": base, "better": better}, TEXTS, PARAMETERS, 0)
    standings = compare_systems(table, ["base", "same", "better"])
    assert standings.duel("better", "base").significant and standings.duel("better", "base").win_rate.low > 0.5
    assert not standings.duel("same", "base").significant
    assert standings.systems[0].system == "better"


def test_command_from_policies_to_figure(tmp_path, capsys):
    policy, codec = write_parts(tmp_path / "one")
    other, _ = write_parts(tmp_path / "two", tiny_policy(seed=1))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = [f"base:{policy}", f"r:{other}", f"codec={codec}", f"prompts={tmp_path}/prompts.txt", "n=8", "seconds=1"]
    assert main([*words, f"out={tmp_path}/out"]) == 0
    assert "r : base" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("ratings.parquet", "heard.parquet", "wins.csv", "marks.csv", "wins.png")
    }
    assert len(pq.read_table(tmp_path / "out" / "ratings.parquet")) == 24
    heard = pq.read_table(tmp_path / "out" / "heard.parquet")
    assert len(heard) == 16 and "simulated_utility" in heard.column_names
    first = (tmp_path / "out" / "ratings.parquet").read_bytes()
    assert main([*words, f"out={tmp_path}/again"]) == 0
    assert (tmp_path / "again" / "ratings.parquet").read_bytes() == first


def test_a_run_stands_for_its_newest_policy(tmp_path):
    for step in (0, 5, 10):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step}"
        write_parts(folder)
        if step < 10:  # the newest is not whole
            (folder / "manifest.json").write_text("{}")
    policy, _ = write_parts(tmp_path / "base")
    found = named_policies([str(policy), f"R:{tmp_path}/run"])
    assert found == {"policy": policy, "R": tmp_path / "run" / "checkpoints" / "step_5" / "policy"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["assets/tiny/policy"], "systems: got 1"),
        (["assets/tiny/policy", "nowhere"], "systems: got 'nowhere'"),
        (["assets/tiny/policy", "assets/tiny/policy"], "two called 'policy'"),
        (["a:assets/tiny/policy", "b:assets"], "without a policy in it"),
        (["a:assets/tiny/policy", "b:assets/tiny/policy", "n=600"], "n: got 600"),
        (["a:assets/tiny/policy", "b:assets/tiny/policy", "skip=-1"], "skip: got '-1'"),
    ],
)
def test_command_says_what_is_wrong(words, problem, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
