"""A round's reward on votes with a planted taste: trained onwards, judged, served; and heads for who differs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from feedback.loop_personal import consenting_votes, fit_heads, tune_group
from feedback.loop_reward import retrain
from feedback.loop_settings import LoopSettings
from feedback.loop_state import START, LoopState
from feedback.loop_votes import votes_path
from feedback.reader import listener_hash
from feedback.records import Consent
from rewards.preference import Preference
from rewards.preference_pairs import write_pairs
from rewards.preference_personal import PersonalReward
from rewards.preference_train import train_preference
from tests.feedback.loop_parts import FIRST, SECOND, finish
from tests.rewards.preference_parts import settings_of, votes

WORDS = "steps=20 eval_every=10 hidden=16 learning_rate=1e-3 head_learning_rate=1e-3"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with policy/, and model/ that learnt from 600 votes."""
    folder = tmp_path_factory.mktemp("before")
    train_preference(settings_of(folder, votes(600), held_out=0.1, valid=0.05), lambda text: None)
    return folder


def in_round(before: Path, folder: Path, new: pa.Table, **settings: Any) -> LoopState:
    """A loop whose first round has collected `new`; the model in `before` serves."""
    state = LoopState(
        LoopSettings(work=str(folder), base=str(before / "policy"), preference_words=WORDS, jobs=1, **settings)
    )
    entry = state.registry.add(before / "model")
    state.registry.judge(entry.version, True, "first", {})
    state.ledger.stage(START, lambda: {"base": FIRST, "policy": SECOND, "preference": entry.version})
    write_pairs(votes_path(state, 1), new)
    return state


@pytest.mark.timeout(300)
def test_a_version_that_passes_serves_even_if_the_gates_answer_was_cut_off(before: Path, tmp_path: Path) -> None:
    state = in_round(before, tmp_path / "loop", votes(1500, seed=1), margin=0.1)
    found = retrain(state, 1)
    assert found["status"] == "passed" and found["serving"] == found["version"] == state.registry.current_version
    assert found["accuracy"]["n"] == found["accuracy_before"]["n"] == found["accuracy_gain"]["n"] > 50
    assert found["accuracy"]["low"] > 0.5 and found["votes"] == 1500
    assert state.registry.entry(found["version"]).parent == state.start()["preference"]

    pointer = tmp_path / "loop" / "registry" / "current.json"
    pointer.write_text(json.dumps({"version": state.start()["preference"]}))
    assert retrain(state, 1) == found and state.registry.current_version == found["version"]


@pytest.mark.timeout(300)
def test_a_refused_version_changes_nothing_but_the_record(before: Path, tmp_path: Path) -> None:
    state = in_round(before, tmp_path / "loop", votes(300, seed=2, shuffled=True), gate="above")
    found = retrain(state, 1)
    first = state.start()["preference"]
    assert (found["status"], found["serving"], state.registry.current_version) == ("refused", first, first)
    assert found["reason"] == state.registry.entry(found["version"]).reason != ""


@pytest.fixture
def of_groups(before: Path, tmp_path: Path) -> LoopState:
    """A group of the same taste as all, and one of the opposite taste with two eager listeners."""
    same, other = votes(500, seed=3, group="same"), votes(700, seed=4, taste=-3.0, group="other", listeners=2)
    folder = shutil.copytree(before, tmp_path / "own")
    state = in_round(folder, tmp_path / "loop", pa.concat_tables([same, other]), group="other")
    finish(state, 1, "reward", serving=state.start()["preference"])
    return state


def test_only_heads_that_surely_foretell_better_may_serve(of_groups: LoopState) -> None:
    found = fit_heads(of_groups, 1)["heads"]
    eager = [f"listener {listener_hash(f'other{number}')[:16]}" for number in (0, 1)]
    assert set(found) == {"group same", "group other", *eager}
    assert not found["group same"]["serves"] and not found["group same"]["checkpoint"]
    assert found["group other"]["serves"] and found["group other"]["gain"]["low"] > 0
    assert all(head["votes"] <= 300 for head in found.values())
    place = Path(of_groups.registry.directory(of_groups.serving(1)))
    kept = {path.name for path in (place / "personal").iterdir()}
    assert kept == {name.split()[1] for name, head in found.items() if head["serves"]}
    head = PersonalReward.load(found["group other"]["checkpoint"])
    assert head.shared.version == Preference.load(place).version
    assert fit_heads(of_groups, 1)["heads"] == found


def test_a_group_without_a_head_keeps_the_shared_policy(of_groups: LoopState) -> None:
    finish(of_groups, 1, "personal", heads={"group other": {"serves": False, "reason": "not surely better"}})
    assert tune_group(of_groups, 1) == {"skipped": "other: not surely better; the shared policy stays theirs"}
    nobody = LoopState(replace(of_groups.settings, work=of_groups.settings.work + "2"))
    finish(nobody, 1, "personal", heads={})
    assert "too few votes" in tune_group(nobody, 1)["skipped"]


def test_people_have_heads_only_where_they_allow_it(of_groups: LoopState, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.feedback.log_parts import listener_of

    class Log:
        """Listeners of a log: one who allows it, one who does not."""

        def __enter__(self) -> Log:
            return self

        def __exit__(self, *_: object) -> None: ...

        def snapshot(self) -> Log:
            return self

        def listeners(self) -> list[Any]:
            return [listener_of("other0", Consent.PERSONAL), listener_of("other1", Consent.TRAIN)]

    monkeypatch.setattr("feedback.loop_personal.open_log", lambda state: Log())
    people = LoopState(replace(of_groups.settings, listeners="log", work=of_groups.settings.work + "3"))
    write_pairs(votes_path(people, 1), votes(400, seed=5, group="other", listeners=2))
    assert set(consenting_votes(people, 1)["listener"].to_pylist()) == {"other0"}
