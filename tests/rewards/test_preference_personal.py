"""Personal heads: opposite tastes, no taste of one's own, few votes, and the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from cluster.errors import UserError
from configs.schema import RewardConfig
from rewards.port import ClipBatch, RewardModel
from rewards.preference import Preference
from rewards.preference_figures import fit_temperature
from rewards.preference_pairs import pairs_of_table, write_pairs
from rewards.preference_personal import (
    MOST_VOTES,
    PENALTIES,
    PersonalReward,
    chosen_penalty,
    fit_personal,
    personal_gain,
    save_personal,
)
from rewards.preference_train import train_preference
from rewards.registry import build_rewards
from rewards.train import main
from tests.rewards.preference_parts import settings_of, votes


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_preference(settings_of(tmp_path_factory.mktemp("shared"), votes(600)), lambda text: None)


def test_a_group_of_opposite_taste_is_foretold_better_by_its_own_head(shared_dir: Path):
    shared = Preference.load(shared_dir)
    own = pairs_of_table(votes(300, seed=1, taste=-2.0, group="other"))
    folder = save_personal(shared_dir, "other", fit_personal(shared, own), shared, own)
    gain = personal_gain(PersonalReward.load(folder), pairs_of_table(votes(400, seed=2, taste=-2.0, group="other")))
    assert gain["shared"]["high"] < 0.5 < 0.65 < gain["personal"]["low"] and gain["gain"]["low"] > 0


def test_without_a_taste_of_its_own_a_head_stays_with_the_shared_score(shared_dir: Path):
    shared = Preference.load(shared_dir)
    own = pairs_of_table(votes(60, seed=3))
    head = fit_personal(shared, own)
    folder = save_personal(shared_dir, "alike", head, shared, own)
    gain = personal_gain(PersonalReward.load(folder), pairs_of_table(votes(400, seed=4)))
    assert abs(gain["gain"]["value"]) < 0.05


def test_at_most_so_many_votes_are_used_and_too_few_are_refused(shared_dir: Path):
    shared = Preference.load(shared_dir)
    many = pairs_of_table(votes(400, seed=5))
    assert fit_personal(shared, many).votes == MOST_VOTES
    np.testing.assert_array_equal(fit_personal(shared, many).weights, fit_personal(shared, many).weights)
    with pytest.raises(UserError, match="got 10 decided votes"):
        fit_personal(shared, many.take(np.arange(10)))


def test_the_shared_score_stays_unless_a_weaker_penalty_foretells_better():
    losses = np.full((len(PENALTIES), 100), 0.7)
    losses[2] += np.where(np.arange(100) % 2, -0.5, 0.46)  # less by 0.02 on average, with a standard error of 0.048
    assert chosen_penalty(losses) == PENALTIES[-1]
    losses[2] -= 0.06
    assert chosen_penalty(losses) == PENALTIES[2]


def test_who_always_takes_the_first_clip_has_a_side_and_no_taste(shared_dir: Path):
    shared = Preference.load(shared_dir)
    sided = pairs_of_table(votes(200, seed=6, side=50.0))
    head = fit_personal(shared, dataclasses.replace(sided, choices=np.zeros(200, np.int8)))
    scores = PersonalReward(shared, head, "", 0.0, 1.0).score_codes(list(sided.prompts), sided.codes_a)
    assert head.side > 1.5
    assert scores.std() < 0.4 * shared.score_codes(list(sided.prompts), sided.codes_a).std()


def test_it_serves_as_a_reward_and_knows_its_shared_model(shared_dir: Path, tmp_path: Path):
    shared = Preference.load(shared_dir)
    own = pairs_of_table(votes(100, seed=7, taste=-2.0))
    folder = save_personal(shared_dir, "served", fit_personal(shared, own), shared, own)
    (model,) = build_rewards({"preference": RewardConfig(checkpoint=str(folder))})
    assert isinstance(model, RewardModel) and model.needs == frozenset({"codes"})
    scores = model.score(ClipBatch(("slow piano",) * 100, 16_000, codes=own.codes_a))
    assert scores.dtype == np.float32 and np.isfinite(scores).all() and model.version != shared.version
    everything = np.concatenate([scores, model.score(ClipBatch(tuple(own.prompts), 16_000, codes=own.codes_b))])
    assert abs(everything.mean() - model.shift) < model.scale and model.scale > 0.1
    strange = own.codes_a[:2].copy()
    strange[0] = 99
    assert np.isnan(model.score(ClipBatch(("a", "b"), 16_000, codes=strange))).tolist() == [True, False]
    with pytest.raises(UserError, match=r"got the name '\.\./x'"):
        save_personal(shared_dir, "../x", fit_personal(shared, own), shared, own)


def test_a_head_on_another_shared_model_is_refused(shared_dir: Path, tmp_path: Path):
    shared = Preference.load(shared_dir)
    own = pairs_of_table(votes(60, seed=8))
    folder = save_personal(shared_dir, "moved", fit_personal(shared, own), shared, own)
    other = train_preference(settings_of(tmp_path, votes(200, seed=9), steps=2), lambda text: None)
    (other / "personal").mkdir()
    folder.rename(other / "personal" / "moved")
    with pytest.raises(UserError, match="fitted on version"):
        PersonalReward.load(other / "personal" / "moved")


def test_the_command_fits_writes_and_measures(shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pairs(tmp_path / "v.parquet", votes(300, seed=10, taste=-2.0, group="night"))
    words = ["personal", f"pairs={tmp_path / 'v.parquet'}", f"shared={shared_dir}"]
    assert main([*words, "group=night"]) == 0
    assert "personal: gain 0." in capsys.readouterr().out
    assert (shared_dir / "personal" / "night" / "model.safetensors").is_file()
    assert main([*words, "group=day"]) == 2 and main(words) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, 20_000)
    choices = np.where(rng.random(20_000) < special.expit(log_odds), 0, 1)
    assert fit_temperature(log_odds * 3.0, choices) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(np.zeros(10), choices[:10]) == 1.0
