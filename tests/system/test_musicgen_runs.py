"""Whole runs on a MusicGen directory with random weights: both modes, all weights or adapters, killed and resumed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from codec.audio import read_audio
from policy.checkpoint import load_policy
from policy.musicgen.random_checkpoint import RandomShapes
from tests.system.musicgen_world import STEPS, MusicGenWorld, build_musicgen_world
from tests.system.tiny_world import assert_same_outcome, check_trained_once, metrics_of, tensors_of

pytestmark = pytest.mark.slow


SHAPES = {
    "mono": RandomShapes(),
    "stereo": RandomShapes(stereo=True),
    "melody": RandomShapes(kind="melody", chroma_places=9),
}
SAVED: dict[str, dict[str, Any]] = {
    "short_moments": {"learner__optimizer_states": "8bit"},
    "one_trunk": {"learner__value_trunk": "policy", "learner__value_gradient": 0.5},
    "adapters_alone": {"learner__lora_rank": 4, "learner__value_trunk": "policy"},
}


@pytest.fixture(scope="module", params=list(SHAPES))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MusicGenWorld:
    return build_musicgen_world(tmp_path_factory.mktemp("musicgen_world"), SHAPES[request.param])


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["all_weights", "adapters"])
def test_a_synchronous_run_is_on_policy_and_equal_when_killed_and_resumed(
    world: MusicGenWorld, tmp_path: Path, lora_rank: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = world.run(whole, learner__lora_rank=lora_rank)
    assert "CC-BY-NC" in done.stdout and "memory: about" in done.stdout
    rows = metrics_of(whole)
    assert len(rows) == STEPS and rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    for row in rows:
        assert row["staleness_max"] == 0 and row["importance_weight_mean"] == pytest.approx(1, abs=1e-4)
    world.kill_and_resume(killed, 3, learner__lora_rank=lora_rank)
    assert_same_outcome(whole, killed, STEPS)
    check_trained_once(killed)

    policy = load_policy(whole / f"checkpoints/step_{STEPS}/policy")  # whole by itself: text encoder, codec, tokenizer
    before = load_policy(world.folder / "musicgen").state_dict()
    changed = [name for name, tensor in policy.state_dict().items() if not tensor.equal(before[name])]
    assert "trunk.layers.0.qkv.weight" in changed and not any("embed" in name for name in changed)
    products = 4 if policy.shapes.melody else 7  # of a layer
    adapters = whole / f"checkpoints/step_{STEPS}/adapters.safetensors"
    assert adapters.exists() == bool(lora_rank) and (not lora_rank or len(load_file(adapters)) == 2 * 2 * products)
    sound, rate_hz = read_audio(sorted((whole / f"samples/step_{STEPS}").glob("*.wav"))[0])
    assert rate_hz == 32_000 and sound.shape[0] == policy.shapes.audio_channels


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["all_weights", "adapters"])
def test_an_asynchronous_run_keeps_its_bound(world: MusicGenWorld, tmp_path: Path, lora_rank: int) -> None:
    world.run(tmp_path / "run", pipeline__mode="async", learner__lora_rank=lora_rank)
    rows = metrics_of(tmp_path / "run")
    assert len(rows) == STEPS and max(row["staleness_max"] for row in rows) <= 2
    check_trained_once(tmp_path / "run")


def test_a_sampler_in_half_precision_is_reported_and_corrected(world: MusicGenWorld, tmp_path: Path) -> None:
    world.run(tmp_path / "run", actors__generator_precision="bfloat16")
    rows = metrics_of(tmp_path / "run")
    assert len(rows) == STEPS and rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    for row in rows:
        assert row["staleness_max"] == 0 and 1e-4 < row["sampler_mismatch"] < 0.1
        assert row["importance_weight_max"] > 1.001


@pytest.mark.parametrize("what", SAVED)
def test_runs_that_save_memory_are_equal_when_killed_and_resumed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    if what == "short_moments" and find_spec("bitsandbytes") is None:
        pytest.skip("without the extra states: pip install 'musicrl-on-ray[states]'")
    wide = build_musicgen_world(tmp_path_factory.mktemp("wide"), RandomShapes(width=256, layers=1))  # blocks of 8 bits
    wide.run(tmp_path / "whole", **SAVED[what])
    published = {"weights__changed_only": "true"} if what == "adapters_alone" else {}  # the other run's were merged
    wide.kill_and_resume(tmp_path / "killed", 3, **SAVED[what], **published)
    assert_same_outcome(tmp_path / "whole", tmp_path / "killed", STEPS)
    tensors = tensors_of(tmp_path / f"killed/checkpoints/step_{STEPS}")
    value = [name for name in tensors if name.startswith("value.safetensors:")]
    codes = [name for name in tensors if name.endswith("codes")]
    assert (len(value) == 2) == (what != "short_moments") and bool(codes) == (what == "short_moments")
    rows = metrics_of(tmp_path / "killed")
    assert rows[-1]["kl"] > 1e-6 and all(row["value_grad_norm"] > 0 for row in rows)
