"""What is wrong with a run is said in one line before any actor starts."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.errors import UserError
from codec.checkpoint import save_codec
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from configs.load import load_config
from learner.model_folder import ModelFolder
from learner.preflight import POLICY_KINDS, checkpoint_bytes, preflight, replay_bytes
from learner.run_folder import RunFolder
from tests.rewards.reward_parts import make_quality, make_text_adherence
from tests.system.tiny_world import ENTRIES, TinyWorld, build_tiny_world

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_tiny_world(tmp_path_factory.mktemp("shared_world")).folder
    make_quality(folder / "quality")
    return folder


@pytest.fixture
def world(shared_world: Path, tmp_path: Path) -> TinyWorld:
    """A copy that a test may spoil."""
    return TinyWorld(shutil.copytree(shared_world, tmp_path / "world"))


def check(world: TinyWorld, *words: str, resume: Path | None = None) -> list[str]:
    """Preflight of the world's run, where `words` replace settings of the same name."""
    if resume:
        return preflight(load_config([f"run.resume={resume}", *words]))
    chosen = {word.partition("=")[0]: word for word in [*world.arguments(world.folder.parent / "run"), *words]}
    return preflight(load_config(list(chosen.values())))


def refused(world: TinyWorld, *words: str, resume: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        check(world, *words, resume=resume)
    text = str(error.value)
    assert "\n" not in text
    assert not (world.folder.parent / "run").exists(), "a refused run leaves no folder"
    return text


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_right_run_passes_and_tells_what_it_needs(world: TinyWorld):
    notes = check(world, f"rewards.quality.checkpoint={world.folder / 'quality'}")
    assert len(notes) == 1 and notes[0].startswith("disk: about 2")
    assert not (world.folder.parent / "run").exists()


PROMPTS: list[tuple[Spoil, str]] = [
    (lambda w: (w / "train.txt").unlink(), "train.txt does not exist"),
    (lambda w: (w / "eval.txt").write_bytes(b""), "prompts.eval: "),
    (lambda w: (w / "train.txt").write_text("a\n" + "x" * 100_000), "line 2: the prompt has 100000 characters"),
]


@pytest.mark.parametrize(("spoil", "expected"), PROMPTS)
def test_prompts_are_read(world: TinyWorld, spoil: Spoil, expected: str):
    spoil(world.folder)
    assert expected in refused(world)


POLICIES: list[tuple[Spoil, str]] = [
    (lambda p: shutil.rmtree(p), "policy', which does not exist; allowed a model folder"),
    (lambda p: (shutil.rmtree(p), p.write_text("")), "which is a file; allowed a model folder"),
    (lambda p: (p / "config.json").unlink(), "which has no config.json"),
    (lambda p: (p / "vocabulary.json").unlink(), "which has no vocabulary.json"),
    (lambda p: (p / "model.safetensors").unlink(), "which has no model.safetensors"),
    (lambda p: (p / "config.json").write_text("{"), "config.json is not readable JSON"),
    (lambda p: (p / "config.json").write_bytes(b"\xff"), "config.json is not readable JSON"),
    (lambda p: (p / "config.json").write_text("[]"), "of kind None, allowed tiny_musiclm"),
    (lambda p: edit_json(p / "config.json", kind="musicgen"), "of kind 'musicgen', allowed tiny_musiclm"),
    (lambda p: edit_json(p / "config.json", streams="four"), "lacks streams or frame_rate_hz"),
    (lambda p: edit_json(p / "config.json", temporal_width=64, temporal_heads=4), "policy.checkpoint: in "),
    (lambda p: cut(p / "model.safetensors", 0), "is truncated or no safetensors file (0 bytes)"),
    (lambda p: cut(p / "model.safetensors", 100), "is truncated or no safetensors file (100 bytes)"),
    (lambda p: cut(p / "model.safetensors", 20_000), "is truncated: got 20000 bytes, allowed "),
    (lambda p: (p / "model.safetensors").write_bytes(b"PK" * 9000), "is truncated or no safetensors file"),
    (lambda p: _poison(p), "non-finite"),
]


def _poison(policy_dir: Path) -> None:
    from policy.checkpoint import load_policy, save_policy

    policy = load_policy(policy_dir)
    with torch.no_grad():
        next(policy.parameters()).view(-1)[0] = float("nan")
    save_policy(policy, policy_dir)


@pytest.mark.parametrize(("spoil", "expected"), POLICIES)
def test_the_policy_is_whole_and_of_its_kind(world: TinyWorld, spoil: Spoil, expected: str):
    spoil(world.folder / "policy")
    text = refused(world)
    assert expected in text and text.startswith("policy.checkpoint: ")


def test_a_codec_is_no_policy(world: TinyWorld):
    text = refused(world, f"policy.reference={world.folder / 'codec'}")
    assert text.startswith("policy.reference: ") and "which has no vocabulary.json" in text


def test_the_reference_speaks_of_the_same_tokens_and_words(world: TinyWorld):
    other = shutil.copytree(world.folder / "policy", world.folder / "other")
    vocabulary = json.loads((other / "vocabulary.json").read_text())
    edit_json(other / "vocabulary.json", words=[*vocabulary["words"][:-1], "kazoo"])
    assert "policy.reference: got another vocabulary.json" in refused(world, f"policy.reference={other}")
    shutil.copy(world.folder / "policy" / "vocabulary.json", other)
    streams = json.loads((other / "config.json").read_text())["streams"]
    edit_json(other / "config.json", streams=streams[:-1])
    assert "policy.reference: got streams semantic 32 + acoustic 32 in " in refused(world, f"policy.reference={other}")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"entries": ENTRIES * 2}, "codec.checkpoint: got codebooks [64, 64]"),
        ({"levels": 1}, "codec.checkpoint: got codebooks [32]"),
        ({"spectra_per_frame": 1}, "codec.checkpoint: got 50 frames a second"),
    ],
)
def test_the_codec_fits_the_policy(world: TinyWorld, shape: dict[str, int], expected: str):
    shapes = {"width": 16, "hidden": 16, "blocks": 1, "latent": 8, "levels": 2, "entries": ENTRIES, **shape}
    save_codec(MagnitudeCodec(MagnitudeCodecConfig(**shapes)), world.folder / "codec")
    assert expected in refused(world)


def test_more_levels_than_the_policy_speaks_are_welcome(world: TinyWorld):
    config = MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=8, levels=3, entries=ENTRIES)
    save_codec(MagnitudeCodec(config), world.folder / "codec")
    assert check(world)


PARTS = [
    (["rewards.low_tokens.target=nowhere.at_all:Class"], "rewards.low_tokens.target: module 'nowhere.at_all' not"),
    (["rewards.low_tokens.target=tests.system.simple_rewards:LowTokenz"], "did you mean LowTokens?"),
    (["rewards.quality.checkpoint=/nowhere"], "rewards.quality.checkpoint: quality checkpoint: got '/nowhere'"),
    (["evaluation.judges=/nowhere"], "evaluation.judges: got '/nowhere', allowed an existing folder"),
    (["sampling.seconds=0.001"], "sampling.seconds: got 0.001, allowed at least 0.04, one frame"),
    (["sampling.seconds=2"], "sampling.seconds: got 2, allowed at most 1.28, the policy's longest"),
    (["evaluation.seconds=2"], "evaluation.seconds: got 2, allowed at most 1.28"),
    (["learner.steps=1000000000", "run.keep_checkpoints=100000000", "run.checkpoint_every=1"], "run.dir: the disk of "),
]


@pytest.mark.parametrize(("words", "expected"), PARTS)
def test_a_wrong_part_is_named(world: TinyWorld, words: list[str], expected: str):
    assert expected in refused(world, *words)


def test_a_reward_of_another_kind_or_truncated_is_named(world: TinyWorld):
    make_text_adherence(world.folder / "towers")
    text = refused(world, f"rewards.quality.checkpoint={world.folder / 'towers'}")
    assert text.startswith("rewards.quality.checkpoint: ") and "text_adherence" in text
    cut(world.folder / "quality" / "model.safetensors", 2000)
    assert "truncated" in refused(world, f"rewards.quality.checkpoint={world.folder / 'quality'}")


def test_at_least_one_reward_has_a_weight(world: TinyWorld):
    words = [word for word in world.arguments(world.folder.parent / "run") if not word.startswith("rewards.")]
    with pytest.raises(UserError, match=r"^rewards: got none"):
        preflight(load_config(words))
    words.append("rewards.low_tokens={target: 'tests.system.simple_rewards:LowTokens', weight: 0}")
    with pytest.raises(UserError, match=r"^rewards: got weight 0 for each"):
        preflight(load_config(words))


def test_a_folder_with_something_in_it_is_refused(world: TinyWorld):
    run = world.folder.parent / "run"
    run.mkdir()
    (run / "kept.txt").write_text("")
    with pytest.raises(UserError, match="which is not empty"):
        check(world)


def test_a_resume_needs_a_checkpoint(world: TinyWorld):
    run = world.folder.parent / "run"
    RunFolder.create(load_config(world.arguments(run))).close()
    for name, expected in (("step_0.tmp", "with no checkpoints"), ("step_2", "with 1 incomplete checkpoints")):
        (run / "checkpoints" / name).mkdir()
        with pytest.raises(UserError, match=expected):
            check(world, resume=run)


def test_a_taken_port_is_refused(world: TinyWorld):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"metrics.port: got {port}, which cannot be served" in refused(world, f"metrics.port={port}")


def test_the_estimates_count_rows_and_tensors(world: TinyWorld):
    config = load_config(world.arguments(world.folder.parent / "run"))
    policy = ModelFolder(config.policy.checkpoint, "policy.checkpoint", POLICY_KINDS)
    # 6 steps of 8 rows of 3 streams x 8 frames
    assert replay_bytes(config, policy) == 6 * 8 * (3 * 8 * 6 + 1000)
    # the 4 written (3 kept, 3 for the guard: all), step 0 and the one being written; 6 float32 a parameter
    assert checkpoint_bytes(config, policy) == 6 * policy.parameters * 24
    from policy.checkpoint import load_policy

    assert policy.parameters == sum(tensor.numel() for tensor in load_policy(policy.path).state_dict().values())
