"""Models of the field without their packages: what the config says, what the doctor tells, how installing is named."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import UserError
from configs.keys import EXTRA_REWARDS
from configs.load import load_config
from configs.schema import RewardConfig
from configs.setting import allowed_of
from rewards import doctor, environment
from rewards.extra.catalogue import EXTRAS, missing_modules
from rewards.extra.isolation import python_of
from rewards.extra.sound import covering_windows, mono_at
from rewards.extra.weights import read_tensors
from rewards.port import ClipBatch
from rewards.registry import build_rewards, check_extra


def test_config_and_catalogue_name_the_same_models():
    choices = allowed_of(RewardConfig.__dataclass_fields__["model"]).choices
    assert tuple(EXTRAS) == EXTRA_REWARDS == choices[1:]
    for extra in EXTRAS.values():
        module, _, name = extra.target.partition(":")
        assert importlib.util.find_spec(module) and name
        assert extra.licence and extra.files


def test_a_missing_package_says_how_to_install_in_one_line(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "audiobox_aesthetics" else real(name))
    assert missing_modules(EXTRAS["audiobox"])[0] == "audiobox_aesthetics"
    said = r"^rewards.taste: .*python -m rewards.environment audiobox DIR` and set environment=DIR$"
    with pytest.raises(UserError, match=said):
        build_rewards({"taste": RewardConfig(checkpoint=str(tmp_path), model="audiobox")})
    with pytest.raises(UserError, match="audiobox_aesthetics is not installed"):
        check_extra("audiobox", str(tmp_path), "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rewards.clap.weight=1"], "rewards.clap.checkpoint: got ''"),
        (["rewards.clop.checkpoint=x"], "did you mean rewards.clap?"),
        (["rewards.mine.model=clapp", "rewards.mine.checkpoint=x"], "rewards.mine.model: got 'clapp', allowed"),
        (["rewards.mine.model=clap", "rewards.mine.target=a:B"], "rewards.mine.model: got 'clap' beside a target"),
        (["rewards.quality.environment=x"], "rewards.quality.environment: got 'x', allowed"),
    ],
)
def test_the_config_refuses_in_one_line(words, said):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert said in str(caught.value)


def test_the_config_takes_a_model_by_its_name_or_under_another():
    config = load_config(["rewards.clap.checkpoint=x", "rewards.taste.model=audiobox", "rewards.taste.checkpoint=y"])
    assert config.rewards["taste"].model == "audiobox" and config.rewards["clap"].checkpoint == "x"


def test_an_environment_must_hold_a_python(tmp_path):
    with pytest.raises(UserError, match=r"rewards\.environment MODEL DIR"):
        python_of(str(tmp_path))


def test_windows_cover_a_clip_and_mono_is_the_mean():
    clips = ClipBatch(("a",), 100, pcm=np.stack([np.arange(50.0), np.arange(50.0) + 2])[None].astype(np.float32))
    mono = mono_at(clips, 100)
    assert mono.tolist() == [(np.arange(50.0) + 1).tolist()]
    windows = covering_windows(mono, 20)
    assert windows[0, :, 0].tolist() == [1, 16, 31] and windows[0, -1, -1] == 50
    assert covering_windows(mono, 80).shape == (1, 1, 50)


def test_pickles_with_anything_but_tensors_are_refused(tmp_path):
    import pickle

    torch.save({"state_dict": {"a": torch.ones(2)}, "loss": np.float64(1.0)}, tmp_path / "good.pt")
    assert read_tensors(tmp_path / "good.pt", "m")["a"].tolist() == [1, 1]
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_tensors(tmp_path / "bad.pt", "m")
    torch.save({"state_dict": {"a": "text"}}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="no table of tensors"):
        read_tensors(tmp_path / "odd.pt", "m")
    save_file({"a": torch.zeros(1)}, tmp_path / "good.safetensors")
    assert list(read_tensors(tmp_path / "good.safetensors", "m")) == ["a"]


def test_the_doctor_tells_of_each_model_and_fails_where_one_does(capsys):
    assert doctor.main(["assets/tiny/quality", "assets/tiny/text_adherence"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "scores" in lines[0] and "MB" in lines[1] and "NOT" not in lines[0]
    assert doctor.main(["assets/tiny/quality", "clap:/nowhere"]) == 1
    told = capsys.readouterr()
    assert "clap:/nowhere: does not work" in told.out and "1 of 2 models do not work" in told.err


def test_the_doctor_measures_shift_and_scale_on_real_clips(capsys):
    clips = "clips=assets/tiny/test_clips/flac"
    assert doctor.main(["assets/tiny/quality", clips, "most=12", "seconds=2"]) == 0
    assert "12 clips in" in (told := capsys.readouterr().out) and "shift=" in told and "scale=" in told


@pytest.mark.parametrize(("words", "status"), [([], 2), (["clapp", "x"], 2), (["--help"], 0)])
def test_the_environment_command_refuses_what_it_does_not_know(words, status, capsys):
    assert environment.main(words) == status
    told = capsys.readouterr()
    assert "did you mean clap" in told.err if words[:1] == ["clapp"] else "CC-BY-NC-4.0" in told.out


def test_the_environment_command_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert environment.main(["clap", str(tmp_path)]) == 2
    assert "no environment" in capsys.readouterr().err
