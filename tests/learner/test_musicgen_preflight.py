"""What a command says of a MusicGen directory before anything starts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import UserError
from codec.musicgen_folder import LICENCE, MusicGenFolder
from configs.load import load_config
from configs.schema import Config
from learner.memory import memory_need
from learner.model_folder import MusicGenModelFolder
from learner.preflight import adopt_codec, check_models, preflight
from policy.checkpoint import load_policy
from policy.musicgen.audiocraft import save_audiocraft
from policy.musicgen.random_checkpoint import RandomShapes, write_random


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("m") / "stereo", RandomShapes(stereo=True))


def config_of(*words: str) -> Config:
    config = load_config(words)
    adopt_codec(config)
    return config


def test_the_directory_is_all_that_is_asked_for(stereo: Path, tmp_path: Path) -> None:
    config = config_of(f"policy.checkpoint={stereo}", f"run.dir={tmp_path / 'run'}", "evaluation.judges=")
    assert config.codec.checkpoint == config.policy.reference == str(stereo)
    notes = preflight(config)
    assert LICENCE in notes[0] and "stereo" in notes[0] and "transformers" in notes[0]


def test_the_preset_wants_a_directory_and_a_reward_and_no_more(stereo: Path, tmp_path: Path) -> None:
    words = ["preset=musicgen", f"run.dir={tmp_path / 'run'}"]
    reward = "rewards.low.target=tests.system.simple_rewards:LowTokens"
    with pytest.raises(UserError, match=r"^rewards: got none"):
        preflight(config_of(*words, f"policy.checkpoint={stereo}"))
    with pytest.raises(UserError, match=r"^policy.checkpoint: got '', allowed the folder of a policy: a MusicGen's"):
        preflight(config_of(*words, reward))
    config = config_of(*words, f"policy.checkpoint={stereo}", reward)
    assert LICENCE in preflight(config)[0] and list(config.rewards) == ["low"]
    released = memory_need(config, replace(MusicGenFolder(stereo).shapes, width=1024, layers=24, hidden=4096))
    assert released.learner < 16e9  # MusicGen small, all weights


@pytest.mark.parametrize(
    "shapes",
    [
        RandomShapes(),
        RandomShapes(stereo=True, width=64, text_width=64),
        RandomShapes(kind="melody", chroma_places=9),
    ],
    ids=["mono", "stereo", "melody"],
)
def test_parameters_are_counted_without_loading(tmp_path: Path, shapes: RandomShapes) -> None:
    folder = write_random(tmp_path / "m", shapes)
    save_audiocraft(load_policy(folder), tmp_path / "audiocraft")
    counted = sum(parameter.numel() for parameter in load_policy(folder).parameters())
    for place in (folder, tmp_path / "audiocraft"):
        policy, codec = check_models(config_of(f"policy.checkpoint={place}"))
        assert policy.parameters == counted and codec.path == place


def test_what_does_not_fit_together_is_named(stereo: Path, tmp_path: Path) -> None:
    mono = write_random(tmp_path / "mono", RandomShapes())
    for words, says in (
        (
            (f"policy.checkpoint={stereo}", "policy.reference=assets/tiny/policy"),
            "policy.reference: got a tiny_musiclm",
        ),
        ((f"policy.checkpoint={stereo}", f"policy.reference={mono}"), "policy.reference: got streams"),
        ((f"policy.checkpoint={stereo}", f"codec.checkpoint={mono}"), "codec.checkpoint: got codebooks"),
        ((f"codec.checkpoint={mono}",), "codec.checkpoint: got codebooks"),
        (
            ("actors.generator_precision=bfloat16",),
            "actors.generator_precision: got bfloat16, allowed float32 with a tiny_musiclm",
        ),
        ((f"policy.checkpoint={stereo}", "sampling.seconds=60"), "sampling.seconds: got 60, allowed at most 40.8"),
    ):
        with pytest.raises(UserError) as caught:
            check_models(config_of(*words))
        assert says in str(caught.value)


def test_a_musicgen_may_be_sampled_in_half_precision(stereo: Path) -> None:
    config = config_of(f"policy.checkpoint={stereo}", "actors.generator_precision=bfloat16")
    policy, _ = check_models(config)
    assert isinstance(policy, MusicGenModelFolder)
    half = memory_need(config, policy.shapes).generators
    config.actors.generator_precision = "float32"
    assert half < memory_need(config, policy.shapes).generators


def test_a_directory_that_is_not_whole_is_refused_before_anything_loads(stereo: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(stereo, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"policy.checkpoint: got .* without model.safetensors"):
        check_models(config_of(f"policy.checkpoint={broken}"))
