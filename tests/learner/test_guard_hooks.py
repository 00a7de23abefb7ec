"""Where the guard touches a run: what is refused before it starts, which checkpoints stay, what a person sees."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cluster.errors import UserError
from configs.load import load_config, stored_yaml
from configs.schema import AlarmRules
from learner.checkpoint import prune
from learner.preflight import check_guard
from learner.progress import Progress
from policy.checkpoint import load_policy
from rewards.preference import PreferenceFacts, save_preference
from rewards.preference_net import PreferenceNet, PreferenceNetConfig
from tests.system.tiny_world import TinyWorld, build_tiny_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """With two preference models of the world's policy."""
    world = build_tiny_world(tmp_path_factory.mktemp("guard_world"))
    policy = load_policy(world.folder / "policy")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        net = PreferenceNet.from_policy(policy, PreferenceNetConfig("mean", 8))
        save_preference(world.folder / name, net, PreferenceFacts(policy.config, 8, 1.0))
    return world


def refused(world: TinyWorld, *words: str) -> str:
    with pytest.raises(UserError) as error:
        check_guard(load_config([f"rewards.preference.checkpoint={world.folder / 'first'}", *words]))
    return str(error.value)


def test_the_model_that_is_trained_on_is_no_guard(world: TinyWorld):
    said = refused(world, f"guard.second_preference={world.folder / 'first'}")
    assert said.startswith("guard.second_preference: got the model that rewards.preference trains on, allowed one that")
    own = [f"rewards.preference.checkpoint={world.folder / 'first'}"]
    check_guard(load_config([*own, f"guard.second_preference={world.folder / 'second'}"]))
    check_guard(load_config([*own, f"guard.second_preference={world.folder / 'first'}", "rewards.preference.weight=0"]))


def test_a_guard_that_is_not_there_or_another_model_is_told(world: TinyWorld):
    assert "guard.second_preference: preference checkpoint: got" in refused(world, "guard.second_preference=/nowhere")
    assert "without config.json" in refused(world, f"guard.second_preference={world.folder}")
    assert "serves no version yet" in refused(world, f"guard.second_preference=registry:{world.folder / 'r'}@current")


def test_a_run_may_be_resumed_without_its_stop_but_with_no_other_rule(tmp_path: Path):
    config = load_config([f"run.dir={tmp_path}", "guard.stop_on_alarm=true", "guard.falls_se=3"])
    (tmp_path / "config.yaml").write_text(stored_yaml(config))
    assert load_config([f"run.resume={tmp_path}"]).guard.stop_on_alarm
    resumed = load_config([f"run.resume={tmp_path}", "guard.stop_on_alarm=false"])
    assert not resumed.guard.stop_on_alarm and resumed.guard.falls_se == 3
    with pytest.raises(UserError, match=r"guard\.falls_se"):
        load_config([f"run.resume={tmp_path}", "guard.falls_se=2"])


def test_the_rules_are_part_of_the_guard_section():
    config = load_config(["guard.window=5"])
    assert isinstance(config.guard, AlarmRules)
    assert asdict(AlarmRules(window=5)).items() <= asdict(config.guard).items()


def test_checkpoints_that_are_needed_stay(tmp_path: Path):
    for step in (0, 5, 10, 15, 20):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    assert [path.name for path in prune(tmp_path, keep=1, needed=(10,))] == ["step_5", "step_15"]
    assert [path.name for path in prune(tmp_path, keep=1)] == ["step_10"]


@pytest.mark.parametrize("mode", ["lines", "panel"])
def test_an_alarm_is_told_and_stays_in_the_panel(mode: str):
    stream = io.StringIO()
    with Progress(10, mode, "MusicRL", stream) as progress:
        progress.update({"learner_step": 1, "reward": 0.5, "sequences": 4, "seconds_step": 1.0})
        progress.alarm("step 1: falls, held-out judges: 0.50 sd below")
    text = stream.getvalue()
    assert "ALARM step 1: falls, held-out judges: 0.50 sd below" in text
    assert text.count("0.50 sd below") == (1 if mode == "lines" else 2)
