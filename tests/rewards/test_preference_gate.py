"""Which version may serve: the rule, its refusals, and the registry that remembers them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cluster.errors import UserError
from configs.load import load_config
from configs.schema import RewardConfig
from rewards.preference_command import train_and_register
from rewards.preference_gate import may_serve
from rewards.preference_pairs import PairSet, pairs_of_table, read_pairs
from rewards.preference_register import register, unseen
from rewards.preference_registry import Entry, Registry, pin_checkpoint, resolve_checkpoint
from rewards.preference_split import split_of
from rewards.preference_train import train_preference
from rewards.registry import build_rewards, pin_checkpoints
from tests.rewards.preference_parts import settings_of, votes


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def held_out() -> PairSet:
    return pairs_of_table(votes(1000))


def right(pairs: PairSet, share: float, seed: int = 0) -> np.ndarray:
    """Differences of a model that is right on `share` of the votes, at random."""
    truth = np.where(pairs.choices == 0, 1.0, -1.0)
    return np.where(np.random.default_rng(seed).random(len(pairs)) < share, truth, -truth)


def test_a_better_version_passes_and_chance_does_not(held_out: PairSet):
    good = may_serve(right(held_out, 0.65), None, held_out)
    assert good.passed and good.reason.startswith("above chance") and good.p_chance < 1e-6
    chance = may_serve(right(held_out, 0.5), None, held_out)
    assert not chance.passed and chance.reason.startswith("not above chance")


def test_a_version_must_beat_the_current_one(held_out: PairSet):
    current = right(held_out, 0.60)
    better = may_serve(right(held_out, 0.72, seed=1), current, held_out)
    assert better.passed and better.gain.low > 0 and better.p_current < 0.01
    assert better.gain.value == pytest.approx(better.accuracy.value - better.current.value)
    same = may_serve(right(held_out, 0.60, seed=1), current, held_out)
    assert not same.passed and same.reason.startswith("not above the current version")


def test_not_below_lets_an_equal_version_pass_and_no_worse_one(held_out: PairSet):
    current = right(held_out, 0.62)
    assert may_serve(current, current, held_out, "not_below", 0.0).passed
    assert not may_serve(current, current, held_out, "above").passed
    assert not may_serve(right(held_out, 0.55, seed=1), current, held_out, "not_below", 0.01).passed


def test_the_exact_test_counts_the_votes_on_which_two_versions_differ(held_out: PairSet):
    current = right(held_out, 1.0)
    worse = current.copy()
    worse[np.flatnonzero(held_out.decided)[:3]] *= -1  # right on all but three
    assert may_serve(worse, current, held_out).p_current == 1.0
    assert may_serve(current, worse, held_out).p_current == pytest.approx(0.5**3)


def test_too_few_votes_or_prompts_are_refused(held_out: PairSet):
    few = held_out.take(np.arange(40))
    assert "40 held-out votes" in may_serve(right(few, 1.0), None, few).reason
    one_prompt = dataclasses.replace(held_out, prompts=np.array(["x"] * len(held_out), dtype=object))
    verdict = may_serve(right(one_prompt, 1.0), None, one_prompt)
    assert not verdict.passed and "of 1 prompts" in verdict.reason


def test_an_interval_over_prompts_is_wider_where_votes_repeat(held_out: PairSet):
    difference = right(held_out, 0.6)
    repeated = held_out.take(np.repeat(np.arange(200), 5))
    wide = may_serve(np.repeat(difference[:200], 5), None, repeated).accuracy
    narrow = may_serve(right(held_out, 0.6, seed=2), None, held_out).accuracy
    assert wide.n == narrow.n and wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a served version, one that is not better, and one that learnt from shuffled votes."""
    folder = tmp_path_factory.mktemp("registered")
    place = str(folder / "registry")
    train_and_register(settings_of(folder, votes(600), registry=place, out=str(folder / "first")), silent)
    again = settings_of(folder, votes(600), registry=place, out=str(folder / "again"), seed=1)
    train_and_register(again, silent)
    shuffled = settings_of(folder, votes(600, shuffled=True), registry=place, out=str(folder / "shuffled"), steps=5)
    train_and_register(shuffled, silent)
    return folder


def test_the_registry_remembers_every_version(registered: Path):
    first, again, shuffled = Registry(registered / "registry").entries()
    assert [first.status, again.status, shuffled.status] == ["passed", "refused", "refused"]
    assert Registry(registered / "registry").current_version == first.version
    assert "above the current version" in again.reason and "not above chance" in shuffled.reason
    assert (first.parent, again.parent) == ("", first.version)
    assert first.data == again.data == read_pairs(registered / "votes0.parquet").data_hash != shuffled.data
    assert first.settings["seed"] == 0 and first.figures["accuracy"]["low"] > 0.6 and again.verdict["gain"]["n"] > 50


def test_a_version_is_judged_once(registered: Path):
    registry = Registry(registered / "registry")
    before = registry.entries()
    again = register(registered / "again", read_pairs(registered / "votes0.parquet"), registry)
    assert again.status == "refused" and registry.entries() == before


def test_only_a_version_that_passed_can_serve_again(registered: Path):
    registry = Registry(registered / "registry")
    first, again, _ = registry.entries()
    registry.serve(first.version)
    with pytest.raises(UserError, match="is refused, allowed one that passed"):
        registry.serve(again.version)


def test_the_gate_uses_only_votes_that_no_version_has_learnt_from(registered: Path):
    pairs = read_pairs(registered / "votes0.parquet")
    wide = Registry(registered / "registry").entries()[0]
    narrow = dataclasses.replace(wide, settings={**wide.settings, "held_out": 0.1})
    rows = unseen(pairs, [wide, narrow])
    assert rows.tolist() == split_of(pairs, "held_out", held_out=0.1).tolist()
    assert rows.sum() < unseen(pairs, [wide]).sum()


def test_a_reward_is_built_from_the_registry_and_pinned(registered: Path):
    place = registered / "registry"
    config = RewardConfig(checkpoint=f"registry:{place}@current")
    (model,) = build_rewards({"preference": config})
    assert model.version == Registry(place).current_version and model.needs == frozenset({"codes"})
    pin_checkpoints({"preference": config})
    assert config.checkpoint == str(Registry(place).directory(model.version))
    pinned = pin_checkpoint(f"registry:{place}@{model.version}")
    assert pinned == config.checkpoint and pin_checkpoint("some/folder") == "some/folder"


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for text in ("registry:current", f"registry:{tmp_path}/none@current"):
        with pytest.raises(UserError, match=r"make one with: python -m rewards\.train preference") as error:
            resolve_checkpoint(text)
        assert "\n" not in str(error.value) and str(error.value).startswith("rewards.preference.checkpoint: got")
    with pytest.raises(UserError, match="got version 'abc'"):
        resolve_checkpoint("registry:abc")


def test_versions_can_lie_on_object_storage(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "memory://bucket/registry"
    registry = Registry(url)
    entry = register(registered / "first", read_pairs(registered / "votes0.parquet"), registry)
    assert entry.status == "passed" and fsspec.filesystem("memory").exists("/bucket/registry/current.json")
    folder = Path(resolve_checkpoint(f"registry:{url}@current"))
    assert folder.is_relative_to(tmp_path) and build_rewards({"preference": RewardConfig(checkpoint=str(folder))})
    assert pin_checkpoint(f"registry:{url}@current") == f"registry:{url}@{entry.version}"


def test_an_entry_is_there_only_when_its_model_is(registered: Path, tmp_path: Path):
    registry = Registry(tmp_path / "registry")
    half = tmp_path / "half"
    half.mkdir()
    (half / "training.json").write_bytes((registered / "first" / "training.json").read_bytes())
    with pytest.raises(FileNotFoundError):
        registry.add(half)
    assert registry.entries() == [] and registry.current_version == ""


def test_entries_are_plain_json(registered: Path):
    path = next((registered / "registry" / "versions").glob("*/entry.json"))
    assert Entry(**json.loads(path.read_text())).version == path.parent.name


def test_the_same_votes_and_settings_give_the_same_version(registered: Path, tmp_path: Path):
    out = train_preference(settings_of(tmp_path, votes(600)), silent)
    assert Registry(registered / "registry").add(out).status == "passed"  # it is there already


@pytest.mark.parametrize("preset", ["tiny_u", "tiny_ru", "tiny_joint"])
def test_presets_take_the_served_version(preset: str):
    config = load_config([f"preset={preset}"])
    assert config.rewards["preference"].weight > 0
    assert config.rewards["preference"].checkpoint == "registry:current"
    joint = preset == "tiny_joint"
    assert all((config.rewards[name].weight > 0) is joint for name in ("text_adherence", "quality"))


def test_ru_starts_from_and_is_anchored_to_rs_policy():
    config = load_config(["preset=tiny_ru", "policy.checkpoint=runs/r/checkpoints/step_300/policy"])
    assert config.policy.reference == config.policy.checkpoint == "runs/r/checkpoints/step_300/policy"
