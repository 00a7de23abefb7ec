"""Reward checkpoints: what is written is what is read, and what is broken is refused in one line."""

import json

import numpy as np
import pytest
from reward_parts import make_quality, make_text_adherence

from cluster.errors import UserError
from rewards.checkpoint import check_checkpoint, load_checkpoint, read_config, write_config
from rewards.port import ClipBatch
from rewards.quality import Quality
from rewards.text_adherence import TextAdherence


def test_round_trip_keeps_the_scores_to_half_precision(tmp_path):
    towers = make_text_adherence(tmp_path)
    clips = ClipBatch(("slow banjo", "no drums"), 16_000, np.random.default_rng(0).normal(-7, 1, (2, 64, 100)))
    np.testing.assert_allclose(
        TextAdherence.load(tmp_path).score(clips), TextAdherence(towers, "x").score(clips), atol=5e-3
    )


def test_the_version_follows_the_weights_and_not_the_normalisation(tmp_path):
    make_quality(tmp_path / "a", seed=1)
    make_quality(tmp_path / "b", seed=2)
    first = Quality.load(tmp_path / "a").version
    assert len(first) == 12 and first != Quality.load(tmp_path / "b").version
    write_config(tmp_path / "a", {**read_config(tmp_path / "a"), "shift": 3.0, "scale": 0.5})
    moved = Quality.load(tmp_path / "a")
    assert (moved.version, moved.shift, moved.scale) == (first, 3.0, 0.5)


def _remove_weights(folder):
    (folder / "model.safetensors").unlink()


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def _garbage_config(folder):
    (folder / "config.json").write_bytes(b"\xff\x00 no json")


def _nan_scale(folder):
    write_config(folder, {**read_config(folder), "scale": float("nan")})


def _other_shape(folder):
    config = read_config(folder)
    config["net"]["hidden"] = 9
    write_config(folder, config)


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        (_remove_weights, "without model.safetensors"),
        (_cut_weights, "truncated"),
        (_empty_weights, "truncated"),
        (_garbage_config, "cannot be read"),
        (_nan_scale, "scale"),
        (_other_shape, "does not fit"),
    ],
)
def test_a_broken_checkpoint_is_one_line(tmp_path, breakage, said):
    make_quality(tmp_path)
    breakage(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        Quality.load(tmp_path)
    assert "\n" not in str(error.value)


def test_another_kind_and_a_missing_directory_are_refused(tmp_path):
    make_quality(tmp_path)
    with pytest.raises(UserError, match="got kind 'quality'"):
        check_checkpoint(tmp_path, "text_adherence")
    with pytest.raises(UserError, match="existing directory"):
        load_checkpoint(tmp_path / "nowhere", "quality")


def test_config_is_json_without_numpy_or_pickles(tmp_path):
    make_text_adherence(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "text_adherence"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
