"""The loop's own rules, without models: who is compared with whom, what is replayed, where a round begins, what is
reported, and how long it waits for people."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.errors import RunFailed, UserError
from configs.command_line import parse_settings
from evaluation.data_table import read_csv
from feedback.loop_report import write_report
from feedback.loop_reward import learning_table
from feedback.loop_settings import LoopSettings, check, of_study
from feedback.loop_state import LoopState
from feedback.loop_tuning import outcome, publish, with_words
from feedback.loop_votes import collect, earlier_votes, votes_path, wins_of
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Consent
from policy.checkpoint import save_policy
from rewards.preference_split import held_out_prompts
from tests.evaluation.tiny_parts import tiny_policy
from tests.feedback.log_parts import fill, vote_of
from tests.feedback.loop_parts import FIRST, SECOND, THIRD, begun, finish, votes
from tests.system.tiny_world import ROOT


def between(new: int, old: int, newest: str = f"{SECOND}@0.99", before: str = f"{FIRST}@0.99") -> list[tuple[str, ...]]:
    """So many wins of the newest and of the one before, on either side, each on a prompt of its own; and others."""
    rows = []
    for number in range(new + old):
        sides = (newest, before) if number % 2 else (before, newest)
        takes_newest = number < new
        rows.append((f"prompt {number}", *sides, "a" if (sides[0] == newest) == takes_newest else "b"))
    return [*rows, ("x", newest, newest, "a"), ("y", newest, before, "tie"), ("z", before, newest, "neither")]


def test_wins_of_the_newest() -> None:
    found = wins_of(votes(between(30, 10)), SECOND, FIRST)
    assert found.n == 40 and found.value == 0.75 and 0.5 < found.low < 0.75 < found.high
    of_app = wins_of(votes(between(30, 10, f"loop@{SECOND}", f"before@{FIRST}")), SECOND, FIRST)
    assert of_app.value == 0.75
    assert wins_of(votes(between(3, 1)), SECOND, THIRD).n == 0
    assert wins_of(votes([("x", FIRST, FIRST, "a")] * 9), FIRST, FIRST).n == 0


def test_a_version_that_listeners_like_less_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = begun(tmp_path)
    for rows, tuned_from in ((between(40, 5), SECOND), (between(22, 20), SECOND), (between(5, 40), FIRST)):
        monkeypatch.setattr("feedback.loop_votes._simulated", lambda *_, rows=rows: votes(rows))
        assert collect(state, 1)["tuned_from"] == tuned_from


def test_a_round_begins_where_the_last_one_ended(tmp_path: Path) -> None:
    state = begun(tmp_path)
    assert (state.newest(1), state.before(1), state.serving(0), state.rounds_done()) == (SECOND, FIRST, "p0", 0)
    finish(state, 1, "collect", tuned_from=SECOND)
    finish(state, 1, "reward", serving="p1")
    finish(state, 1, "publish", version=THIRD, before=SECOND)
    again = LoopState(state.settings)
    assert (again.newest(2), again.before(2), again.serving(1), again.rounds_done()) == (THIRD, SECOND, "p1", 1)


def test_settings_may_grow_by_rounds_only(tmp_path: Path) -> None:
    begun(tmp_path, rounds=2)
    begun(tmp_path, rounds=5, wait_hours=1.0)
    with pytest.raises(UserError, match=r"replay: got 2\.0, but .* was begun with 1\.0"):
        begun(tmp_path, replay=2.0)


def new_and_earlier(state: LoopState, path: Path) -> None:
    """100 earlier votes on 50 prompts, and 30 of the round."""
    pq.write_table(votes([(f"prompt {number % 50}", FIRST, FIRST, "a") for number in range(100)]), path)
    folder = votes_path(state, 1)
    folder.parent.mkdir(parents=True)
    pq.write_table(votes([(f"own {number}", SECOND, FIRST, "b") for number in range(30)], begin=1000), folder)


def test_what_is_replayed(tmp_path: Path) -> None:
    state = begun(tmp_path / "loop", votes=str(tmp_path / "votes.parquet"), replay=0.5)
    new_and_earlier(state, tmp_path / "votes.parquet")
    table = learning_table(state, 1)
    earlier = [row for row in table.to_pylist() if not row["prompt"].startswith("own")]
    kept_out = set(held_out_prompts([f"prompt {number}" for number in range(50)]))
    assert len(table) - len(earlier) == 30, "all of the round's"
    assert sum(row["prompt"] not in kept_out for row in earlier) == 15, "half as many to learn from again"
    assert sum(row["prompt"] in kept_out for row in earlier) == 2 * len(kept_out) > 0, (
        "all held-out ones, to be judged on"
    )
    assert learning_table(state, 1).equals(table)


@pytest.mark.parametrize("changed", [{"learn": "fresh"}, {}])
def test_without_a_model_to_go_on_from_all_votes_count(tmp_path: Path, changed: dict[str, Any]) -> None:
    state = begun(tmp_path / "loop", votes=str(tmp_path / "votes.parquet"), **changed)
    if not changed:
        state.ledger.notes["stages"]["start"]["preference"] = ""
    new_and_earlier(state, tmp_path / "votes.parquet")
    assert len(learning_table(state, 1)) == 130


def run_folder(folder: Path, alarms: list[dict[str, Any]], proposed: int) -> Path:
    """As a run leaves it: checkpoints 0, 15 and 30, metrics, alarms.json."""
    import json

    import pyarrow as pa

    for step in (0, 15, 30):
        checkpoint = folder / "checkpoints" / f"step_{step}"
        save_policy(tiny_policy(step), checkpoint / "policy")
        (checkpoint / "manifest.json").write_text("{}")
    kl = {"learner_step": list(range(1, 31)), "kl_clip": [float(step) for step in range(1, 31)]}
    pq.write_table(pa.table(kl), folder / "metrics.parquet")
    proposal = {"learner_step": proposed, "policy": f"checkpoints/step_{proposed}/policy", "why": "because"}
    (folder / "alarms.json").write_text(json.dumps({"alarms": alarms, "proposal": proposal}))
    return folder


RANG = [{"learner_step": 30, "rule": "falls", "guard": "second preference model", "text": "0.5 sd below its best"}]


def test_the_last_checkpoint_unless_the_guard_rang(tmp_path: Path) -> None:
    silent = outcome(run_folder(tmp_path / "silent", [], 15))
    assert (silent["step"], silent["last_step"], silent["kl_clip"], silent["alarms"]) == (30, 30, 30.0, [])
    rung = outcome(run_folder(tmp_path / "rung", RANG, 15))
    assert (rung["step"], rung["last_step"], rung["kl_clip"]) == (15, 30, 15.0)
    assert rung["policy"].endswith("step_15/policy") and rung["alarms"] == ["step 30: falls, 0.5 sd below its best"]
    with pytest.raises(RunFailed, match="no complete checkpoint"):
        outcome(tmp_path / "none")


@pytest.mark.parametrize("proposed", [0, 15])
def test_what_is_published(tmp_path: Path, proposed: int) -> None:
    state = begun(tmp_path / "loop")
    save_policy(tiny_policy(99), tmp_path / "first")
    parent = state.published.publish(tmp_path / "first").version
    finish(state, 1, "collect", tuned_from=parent)
    finish(state, 1, "reward", serving="p1", data="d", votes=7)
    finish(state, 1, "tune", **outcome(run_folder(tmp_path / "run", RANG, proposed)))
    found = publish(state, 1)
    current = state.published.current()
    assert found["version"] == current and publish(state, 1) == found
    if proposed == 0:
        assert found == {"version": parent, "before": FIRST, "published": False}
    else:
        entry = state.published.entry(current)
        assert (entry.parent, found["before"], found["published"]) == (parent, parent, True)
        assert entry.facts["preference"] == "p1" and entry.facts["step"] == 15 and entry.facts["data"] == "d"


def ends(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 100}


def test_the_report_says_what_happened(tmp_path: Path) -> None:
    state = begun(tmp_path)
    for number, (status, gain) in enumerate((("passed", 0.3), ("refused", 0.4)), start=1):
        share = {"wins": 0.6, "wins_low": 0.55, "wins_high": 0.65, "compared": 400}
        back = SECOND if number == 2 else THIRD
        finish(state, number, "collect", new=2900, newest=THIRD, before=SECOND, tuned_from=back, **share)
        judged = {"accuracy": ends(0.66), "accuracy_before": ends(0.6), "accuracy_gain": ends(0.06)}
        entry = {"version": f"p{number}", "status": status, "reason": "gain 0.06", "serving": "p1"}
        finish(state, number, "reward", votes=5000, data="abc", **entry, **judged)
        tuned = {
            "run": "r",
            "step": 15,
            "last_step": 30,
            "kl_clip": 7.5,
            "alarms": ["step 30: falls"],
            "kept": "because",
        }
        finish(state, number, "tune", **tuned)
        finish(state, number, "publish", version=THIRD, before=SECOND, published=True)
        finish(
            state,
            number,
            "personal",
            heads={"group mellow": {"reason": "better than the shared model", "serves": True}},
        )
        finish(state, number, "simulated utility", mean=1.0, prompts=256, gain=ends(gain), gain_of_round=ends(0.1))
    text = write_report(state).read_text()
    assert (
        "| 1 | 2,900 | 60 % [55, 65] of 400 | 0.600 [0.500, 0.700] | 0.660 [0.560, 0.760] | passed | 7.5 | 1 |" in text
    )
    assert "+0.40 [+0.30, +0.50]" in text and "256 held-out prompts" in text and "no person listened" in text
    assert "the round kept p1" in text and "went back to it" in text and "head for group mellow: better" in text
    rounds = read_csv(tmp_path / "rounds.csv").to_pylist()
    assert [row["reward_status"] for row in rounds] == ["passed", "refused"]
    assert rounds[1]["simulated_utility_gain_low"] == pytest.approx(0.3)
    for name in ("accuracy", "simulated_utility"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


class People:
    """A log as the app writes it, and listeners who vote in it."""

    def __init__(self, folder: Path, listeners: tuple[str, ...] = ("ann", "bob", "shy")) -> None:
        self.url = str(folder / "log.sqlite")
        self.log = PreferenceLog.open(self.url)
        fill(self.log, pairs=12, clips=24, listeners=listeners)
        self.log.set_consent("shy", Consent.COUNT)

    def vote(self, numbers: range, listener: str) -> None:
        self.log.record_votes([vote_of(number, listener, Choice.A) for number in numbers])


@pytest.fixture
def people(tmp_path: Path):
    found = People(tmp_path)
    yield found
    found.log.close()


def of_people(people: People, folder: Path, **settings: Any) -> LoopState:
    return begun(folder / "loop", listeners="log", log=people.url, poll_s=0.02, **settings)


def test_waits_until_enough_votes_that_count_are_in(
    people: People, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    people.vote(range(4), "ann")
    people.vote(range(9), "shy")  # lets nobody learn from them
    state = of_people(people, tmp_path, votes_per_round=7)

    def meanwhile(_: float) -> None:
        people.vote(range(3), "bob")

    monkeypatch.setattr("feedback.loop_votes.time", SimpleNamespace(monotonic=time.monotonic, sleep=meanwhile))
    found = collect(state, 1)
    assert found["new"] == 7 and "4 of 7 new votes" in capsys.readouterr().out
    table = pq.read_table(votes_path(state, 1))
    assert set(table["listener"].to_pylist()) == {"ann", "bob"} and "@v1" in table["policy_a"][0].as_py()


def test_votes_that_do_not_come_end_the_wait_and_the_same_command_waits_on(people: People, tmp_path: Path) -> None:
    people.vote(range(4), "ann")
    state = of_people(people, tmp_path, votes_per_round=6, wait_hours=0.1 / 3600)
    with pytest.raises(RunFailed, match=r"4 of 6 new votes .* the same command waits on"):
        collect(state, 1)
    people.vote(range(4, 6), "ann")
    assert collect(state, 1)["new"] == 6


def test_each_vote_is_new_once_and_deleted_ones_leave(people: People, tmp_path: Path) -> None:
    people.vote(range(5), "ann")
    state = of_people(people, tmp_path, votes_per_round=2)
    assert collect(state, 1)["new"] == 5
    finish(state, 1, "publish", version=THIRD, before=SECOND)
    people.vote(range(3), "bob")
    people.vote(range(5, 7), "ann")
    assert collect(state, 2)["new"] == 5
    people.log.delete_listener("ann")
    people.vote(range(3, 6), "bob")
    finish(state, 2, "publish", version=THIRD, before=SECOND)
    assert collect(state, 3)["new"] == 3
    earlier = earlier_votes(state, 3)
    assert set(earlier["listener"].to_pylist()) == {"bob"} and len(earlier) == 3


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    state = begun(tmp_path / "loop", listeners="log", log=str(tmp_path / "none.sqlite"))
    with pytest.raises(UserError, match=r"log: got .*none\.sqlite, where there is no log yet"):
        collect(state, 1)
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["listeners=crowd"], "listeners: got 'crowd', allowed simulated or log"),
        (["policy=nowhere"], "policy: got 'nowhere', allowed an existing directory"),
        (["anchor=moon"], "anchor: got 'moon', allowed newest or start or base"),
        (["learn=never"], "learn: got 'never'"),
        (["gate=open"], "gate: got 'open'"),
        (["own=1.5"], "own: got 1.5, allowed at most 1"),
        (["votes=none.parquet"], "votes: got 'none.parquet'"),
        (["preference=registry:nowhere@current"], "preference: got"),
        (["second_preference=nowhere"], "second_preference: got 'nowhere'"),
        (["agreement=50"], "agreement: got 50"),
        (["n=1000"], "n: got 1000, allowed at most the 256"),
        (["study=nowhere"], "study: got 'nowhere'"),
        (["round=3"], "round: unknown key, did you mean rounds?"),
    ],
)
def test_wrong_words_are_answered_in_one_line(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        check(of_study(parse_settings(words, LoopSettings())))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_study_fills_in_what_is_not_named(tmp_path: Path) -> None:
    newest = tmp_path / "runs" / "RU" / "checkpoints" / "step_60"
    newest.mkdir(parents=True)
    (newest / "manifest.json").write_text("{}")
    (tmp_path / "votes_heard.parquet").touch()
    (tmp_path / "preference" / "second").mkdir(parents=True)
    (tmp_path / "study.json").write_text('{"settings": {"seed": 3}}')
    found = of_study(LoopSettings(study=str(tmp_path), votes="own.parquet"))
    assert found.policy == str(newest / "policy") and found.votes == "own.parquet"
    assert found.preference == f"registry:{tmp_path / 'registry'}@current"
    assert found.second_preference == str(tmp_path / "preference" / "second") and found.panel_seed == "3"


def test_the_command_ends_with_status_2_before_anything_starts(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "feedback.loop", f"work={tmp_path / 'loop'}", "policy=nowhere"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "policy: got 'nowhere'" in done.stderr
    assert not (tmp_path / "loop").exists()


def test_lots_do_not_depend_on_the_order_of_the_table(tmp_path: Path) -> None:
    state = begun(tmp_path / "loop", votes=str(tmp_path / "votes.parquet"), replay=0.5)
    new_and_earlier(state, tmp_path / "votes.parquet")
    drawn = set(learning_table(state, 1)["vote_id"].to_pylist())
    table = pq.read_table(tmp_path / "votes.parquet")
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), tmp_path / "votes.parquet")
    assert set(learning_table(state, 1)["vote_id"].to_pylist()) == drawn


def test_a_users_words_take_the_place_of_the_loops() -> None:
    words = with_words(["preset=tiny_ru", "sampling.seconds=4", "run.dir=x"], "sampling.seconds=2 learner.steps=3")
    assert words == ["preset=tiny_ru", "run.dir=x", "sampling.seconds=2", "learner.steps=3"]
