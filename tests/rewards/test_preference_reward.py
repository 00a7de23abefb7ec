"""The preference model behind rewards.port: what every reward promises, and its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import UserError
from configs.schema import RewardConfig
from rewards.normalisation import measure_normalisation
from rewards.port import ClipBatch, RewardModel
from rewards.preference import Preference, PreferenceFacts, save_preference
from rewards.preference_net import PreferenceNet, PreferenceNetConfig
from rewards.registry import build_rewards
from tests.policy.policy_parts import small_policy
from tests.rewards.preference_parts import draw_clips


def make_preference(folder: Path, window_frames: int = 12, temperature: float = 2.0) -> Path:
    policy = small_policy()
    net = PreferenceNet.from_policy(policy, PreferenceNetConfig("attention", 8))
    with torch.no_grad():
        net.head[-1].weight.normal_(generator=torch.Generator().manual_seed(1))
    save_preference(folder, net, PreferenceFacts(policy.config, window_frames, temperature), shift=0.5, scale=2.0)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> RewardModel:
    return build_rewards({"preference": RewardConfig(checkpoint=str(make_preference(tmp_path / "p")))})[0]


def clips(count: int, frames: int = 12, seed: int = 0) -> ClipBatch:
    codes = draw_clips(np.random.default_rng(seed), count, frames).astype(np.uint16)
    codes.setflags(write=False)  # as it comes out of the object store
    return ClipBatch(tuple(f"slow piano {i % 3}" for i in range(count)), 16_000, codes=codes)


def test_it_fulfils_the_port(model: RewardModel):
    assert isinstance(model, RewardModel)
    assert (model.name, model.needs, model.shift, model.scale) == ("preference", frozenset({"codes"}), 0.5, 2.0)
    assert len(model.version) == 12


@pytest.mark.parametrize("frames", [1, 5, 12, 13, 20, 24, 60])
def test_any_length_gives_one_finite_score_a_clip(model: RewardModel, frames: int):
    scores = model.score(clips(3, frames))
    assert scores.shape == (3,) and scores.dtype == np.float32 and np.isfinite(scores).all()


def test_a_clips_score_does_not_depend_on_its_neighbours(model: RewardModel):
    batch = clips(70)
    together = model.score(batch)
    alone = np.concatenate([model.score(batch.take([row])) for row in (0, 33, 69)])
    np.testing.assert_allclose(together[[0, 33, 69]], alone, atol=1e-5)


def test_a_code_that_no_stream_has_is_missing_and_its_neighbours_are_not(model: RewardModel):
    batch = clips(4)
    codes = batch.codes.copy()
    codes[2, 1, 3] = 16
    scores = model.score(ClipBatch(batch.prompts, 16_000, codes=codes))
    assert np.isnan(scores).tolist() == [False, False, True, False]
    np.testing.assert_allclose(scores[[0, 1, 3]], model.score(batch)[[0, 1, 3]], atol=1e-5)


def test_codes_of_another_shape_are_an_error_of_the_wiring(model: RewardModel):
    with pytest.raises(ValueError, match=r"got codes \[2, 5, 7\], allowed \[B, 3, T\]"):
        model.score(ClipBatch(("a", "b"), 16_000, codes=np.zeros((2, 5, 7), np.uint16)))


def test_a_long_clip_is_the_mean_of_its_first_and_last_window(tmp_path: Path):
    model = Preference.load(make_preference(tmp_path, window_frames=8))
    long = clips(3, 20)
    parts = [model.score_codes(long.prompts, part) for part in (long.codes[..., :8], long.codes[..., 12:])]
    np.testing.assert_allclose(model.score(long), (parts[0] + parts[1]) / 2, atol=1e-5)


def test_scores_are_divided_by_the_temperature(tmp_path: Path):
    warm, plain = (Preference.load(make_preference(tmp_path / str(t), temperature=t)) for t in (2.0, 1.0))
    np.testing.assert_allclose(2 * warm.score(clips(4)), plain.score(clips(4)), atol=1e-5)
    assert warm.version != plain.version


def test_it_is_normalised_like_every_other_reward(tmp_path: Path):
    folder = make_preference(tmp_path)
    version = Preference.load(folder).version
    scores = Preference.load(folder).score(clips(40))
    shift, scale = measure_normalisation(folder, clips(40))
    assert shift == pytest.approx(scores.mean(), abs=1e-4) and scale == pytest.approx(scores.std(ddof=1), abs=1e-4)
    assert Preference.load(folder).version == version


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "quality"}, "got kind 'quality'"),
        ({"window_frames": 0}, "describes no preference model"),
        ({"temperature": -1}, "describes no preference model"),
        ({"net": {"pool": "mean"}}, "describes no preference model"),
        ({"policy": {}}, "describes no preference model"),
        ({"net": {"pooling": "attention", "hidden": 4}}, "does not fit its config.json"),
        ({"scale": 0}, "allowed finite and scale > 0"),
    ],
)
def test_a_broken_checkpoint_is_one_line(change: dict, said: str, tmp_path: Path):
    folder = make_preference(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=said) as error:
        Preference.load(folder)
    assert "\n" not in str(error.value)
