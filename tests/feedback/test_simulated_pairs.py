"""The table of simulated votes: whole, repeatable, resumable, and apart from the truth behind it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from feedback import simulated_pair_parts
from feedback.records import Choice
from feedback.simulated_ceiling import Answers, best_accuracy, rule_accuracy
from feedback.simulated_pair_parts import PairParts, hidden_path
from feedback.simulated_pairs import PairSettings, main, make_pairs
from rewards.preference_pairs import SCHEMA
from tests.evaluation.tiny_parts import PROMPTS, write_parts

PAIRS = 70


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Settings for a random small policy; parts of 32 pairs."""
    folder = tmp_path_factory.mktemp("parts")
    policy, codec = write_parts(folder)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return {
        "policy": str(policy),
        "codec": str(codec),
        "prompts": str(folder / "prompts.txt"),
        "pairs": PAIRS,
        "seconds": 1.0,
    }


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(simulated_pair_parts, "PART_PAIRS", 32)


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / "votes.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_pair_parts, "PART_PAIRS", 32)
        return make_pairs(PairSettings(out=str(place), **base))


def test_table_and_truth(made):
    votes, hidden = pq.read_table(made), pq.read_table(hidden_path(made))
    assert votes.schema.equals(SCHEMA) and len(votes) == PAIRS == len(hidden)
    assert votes["vote_id"].to_pylist() == hidden["vote_id"].to_pylist()
    assert len(set(votes["vote_id"].to_pylist())) == PAIRS
    assert set(votes["listener_kind"].to_pylist()) == {"simulated"}
    assert all(name.startswith("simulated") for name in votes["listener"].to_pylist())
    assert set(votes["choice"].to_pylist()) <= {choice.value for choice in Choice}
    assert np.shape(votes["codes_a"][0].as_py()) == (3, 25)
    assert set(votes["prompt"].to_pylist()) <= set(PROMPTS)
    assert not (set(hidden.column_names) - {"vote_id"}) & set(votes.column_names)
    assert not made.with_suffix(".parts").exists()


def test_truth_gives_the_best_accuracy(made):
    hidden = pq.read_table(hidden_path(made))
    columns = {name: hidden[name].to_numpy() for name in hidden.column_names if name != "vote_id"}
    answers = Answers(columns["takes_a"], columns["takes_b"], columns["best_known"])
    best = best_accuracy(answers).value
    assert rule_accuracy(answers, columns["utility_a"], columns["utility_b"]).value <= best + 1e-12
    assert 0.5 < best < 1.0


def test_goes_on_where_it_stopped(base, made, tmp_path, monkeypatch):
    settings = PairSettings(out=str(tmp_path / "votes.parquet"), **base)
    write, done = simulated_pair_parts.Workshop.write, []

    def stop_at_the_second(self, number):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(number)
        return write(self, number)

    monkeypatch.setattr(simulated_pair_parts.Workshop, "write", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(settings)
    parts = PairParts(settings)
    assert parts.part(0, False).exists() and not parts.part(1, False).exists() and not parts.out.exists()
    before = parts.part(0, False).stat().st_mtime_ns
    seen = []
    monkeypatch.setattr(simulated_pair_parts.Workshop, "write", lambda self, n: seen.append(n) or write(self, n))
    assert make_pairs(settings) == parts.out and seen == [1, 2] and before
    assert pq.read_table(parts.out).equals(pq.read_table(made))
    assert pq.read_table(hidden_path(parts.out)).equals(pq.read_table(hidden_path(made)))


def test_several_processes_give_the_same_table(base, made, tmp_path):
    """The processes of `spawn` read PART_PAIRS afresh, so parts are of the shipped size here."""
    simulated_pair_parts.PART_PAIRS = 256
    settings = PairSettings(out=str(tmp_path / "votes.parquet"), **{**base, "pairs": 260}, workers=2)
    two = pq.read_table(make_pairs(settings))
    assert len(two) == 260
    assert two.slice(0, 32)["codes_a"].equals(pq.read_table(made).slice(0, 32)["codes_a"])


def test_other_settings_do_not_mix(base, made, capsys):
    words = [f"{key}={value}" for key, value in base.items()]
    assert main([*words, f"out={made}", "seed=1"]) == 2
    assert "begun with other settings" in capsys.readouterr().err
    assert main([*words, f"out={made}"]) == 0  # the same ones: nothing to do


def test_one_panel_for_several_tables(base, tmp_path):
    few = {**base, "pairs": 20}
    first = pq.read_table(make_pairs(PairSettings(out=str(tmp_path / "a.parquet"), **few, seed=1, panel_seed="9")))
    other = pq.read_table(make_pairs(PairSettings(out=str(tmp_path / "b.parquet"), **few, seed=2, panel_seed="9")))
    assert all("-9-" in name for name in first["listener"].to_pylist() + other["listener"].to_pylist())
    assert first["codes_a"].to_pylist() != other["codes_a"].to_pylist()
    assert not set(first["vote_id"].to_pylist()) & set(other["vote_id"].to_pylist())


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("out=votes.csv", "out: got 'votes.csv'"),
        ("agreement=70", "agreement: got 70, allowed 60 or 75"),
        ("panel_seed=x", "panel_seed: got 'x'"),
        ("policy=nowhere", "policy: got 'nowhere'"),
        ("pairs=0", "pairs: got 0"),
        ("seconds=-1", "seconds: got -1"),
    ],
)
def test_command_says_what_is_wrong(word, problem, tmp_path, capsys):
    words = [] if word.startswith("out=") else [f"out={tmp_path}/v.parquet"]
    assert main([*words, word]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
