"""Training: it finds a planted utility, finds nothing in shuffled votes, and goes on where it stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import UserError
from policy.checkpoint import load_policy
from rewards.preference import Preference
from rewards.preference_measure import difference_of
from rewards.preference_pairs import NEITHER, TIE, A, pairs_of_table, read_pairs
from rewards.preference_task import fresh_net, make_task, make_trainer, read_task_pairs
from rewards.preference_train import TRAINING_FOLDER, read_training, train_here, train_preference
from rewards.preference_training import cropped, listener_weights, votes_of
from tests.rewards.preference_parts import replaced, settings_of, utility, votes


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return train_preference(settings_of(folder, votes(700, side=1.0, tie_below=0.6)), silent)


def test_a_planted_utility_is_learnt(trained: Path):
    figures = read_training(trained)["figures"]
    assert figures["accuracy"]["low"] > 0.65
    unheard = pairs_of_table(votes(300, seed=5))
    model = Preference.load(trained)
    truth = utility(unheard.codes_a.astype(int)) - utility(unheard.codes_b.astype(int))
    assert np.corrcoef(difference_of(model, unheard), truth)[0, 1] > 0.8


def test_side_and_ties_are_learnt_beside_the_score(trained: Path):
    figures = read_training(trained)["figures"]
    assert 0.4 < figures["side"] < 1.8  # planted: 1
    assert 0.05 < figures["choices"]["tie"] < 0.3 and 0.1 < figures["nu"] < 1.0
    assert figures["accuracy_with_side"]["value"] >= figures["accuracy"]["value"] - 0.02
    model, clips = Preference.load(trained), pairs_of_table(votes(20, seed=3))
    scores = model.score_codes(list(clips.prompts), clips.codes_a)
    with torch.no_grad():
        model.net.side.add_(5.0)
    np.testing.assert_array_equal(model.score_codes(list(clips.prompts), clips.codes_a), scores)


def test_scores_are_calibrated_log_odds(trained: Path):
    calibration = read_training(trained)["figures"]["calibration"]
    assert calibration["ece"] < 0.12 and sum(row["votes"] for row in calibration["reliability"]) > 100


def test_shuffled_votes_teach_nothing(tmp_path: Path):
    out = train_preference(settings_of(tmp_path, votes(700, shuffled=True)), silent)
    share = read_training(out)["figures"]["accuracy"]
    assert share["low"] < 0.5 < share["high"] or abs(share["value"] - 0.5) < 0.1


def test_resumed_training_equals_the_uninterrupted_one(tmp_path: Path):
    settings = settings_of(tmp_path, votes(300, tie_below=0.5), steps=30, eval_every=10, checkpoint_every=7)
    policy = load_policy(settings.policy)
    task = make_task(settings, policy, read_task_pairs(settings, policy))
    whole = train_here(task, tmp_path / "whole", silent)
    trainer = make_trainer(task)
    trainer.advance(14)
    (tmp_path / "cut").mkdir()
    torch.save(trainer.state(), tmp_path / "cut" / "state.pt")
    lines: list[str] = []
    resumed = train_here(task, tmp_path / "cut", lines.append)
    assert lines[0] == "preference: going on from step 14"
    assert resumed["history"] == whole["history"] and resumed["best_step"] == whole["best_step"]
    assert all(torch.equal(resumed["net"][name], whole["net"][name]) for name in whole["net"])


def test_the_same_command_answers_with_what_is_there_and_refuses_another_models_folder(tmp_path: Path):
    settings = settings_of(tmp_path, votes(300), steps=4)
    out = train_preference(settings, silent)
    before = (out / "model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    train_preference(settings, lines.append)
    assert lines == [f"preference: {out} is trained already"]
    assert (out / "model.safetensors").stat().st_mtime_ns == before and not (out / TRAINING_FOLDER).exists()
    with pytest.raises(UserError, match="other votes or settings"):
        train_preference(dataclasses.replace(settings, seed=1), silent)


def test_training_stops_when_held_back_votes_get_worse(tmp_path: Path):
    settings = settings_of(tmp_path, votes(200, shuffled=True), steps=400, eval_every=5, patience=3)
    training = read_training(train_preference(settings, silent))["training"]
    assert training["steps"] < 400
    losses = [look["valid_loss"] for look in training["history"]]
    assert training["valid_loss"] == min(losses) and len(losses) - 1 - int(np.argmin(losses)) == 3


def test_votes_for_neither_are_left_out_or_ties(tmp_path: Path):
    settings = settings_of(tmp_path, votes(60, tie_below=0.5))
    pairs = read_pairs(settings.pairs)
    choices = pairs.choices.copy()
    choices[:10] = NEITHER
    pairs = dataclasses.replace(pairs, choices=choices)
    net, ties = fresh_net(settings, load_policy(settings.policy)), int((choices == TIE).sum())
    assert len(votes_of(pairs, net, settings)) == 50
    taken = votes_of(pairs, net, dataclasses.replace(settings, neither="tie"))
    assert len(taken) == 60 and (taken.choices == TIE).sum() == ties + 10
    assert len(votes_of(pairs, net, dataclasses.replace(settings, ties="drop"))) == 50 - ties


def test_listener_weights():
    listeners = np.array(["x"] * 8 + ["y"] * 2)
    assert listener_weights(listeners, 0.0).tolist() == [1.0] * 10
    equal = listener_weights(listeners, 1.0)
    assert equal.mean() == pytest.approx(1.0) and equal[:8].sum() == pytest.approx(equal[8:].sum())


def test_crops_are_parts_of_the_clip():
    codes = np.arange(20, dtype=np.uint16).reshape(1, 1, 1, 20).repeat(2, axis=1).repeat(3, axis=2)
    frames = np.array([[20, 6]])
    start, lengths = cropped(codes, frames, 8, None)
    assert start[0, 0, 0].tolist() == list(range(8)) and lengths.tolist() == [[8, 6]]
    places = set()
    for seed in range(40):
        cut, _ = cropped(codes, frames, 8, np.random.default_rng(seed))
        assert (np.diff(cut[0, 0].astype(int)) == 1).all() and cut[0, 1, 0, 0] == 0
        places.add(int(cut[0, 0, 0, 0]))
    assert min(places) == 0 and max(places) == 12
    whole, lengths = cropped(codes, frames, 0, None)
    assert whole.shape[-1] == 20 and lengths.tolist() == frames.tolist()


def test_a_cropped_training_scores_windows_of_that_length(tmp_path: Path):
    settings = settings_of(tmp_path, votes(200), steps=2, crop_s=0.16)  # 4 frames at 25 a second
    model = Preference.load(train_preference(settings, silent))
    assert model.facts.window_frames == 4
    clips = pairs_of_table(votes(3, seed=2)).codes_a
    middle = clips.copy()
    middle[..., 4:-4] = 0
    prompts = ["slow"] * 3
    np.testing.assert_array_equal(model.score_codes(prompts, clips), model.score_codes(prompts, middle))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": "/nowhere.parquet"}, "does not exist"),
        ({"policy": "/nowhere"}, "policy.checkpoint: got /nowhere"),
        ({"group": "night"}, "group: got 'night' without a vote"),
        ({"held_out": 0.5, "valid": 0.45}, "held_out: got 0.5 beside valid=0.45"),
        ({"workers": 3}, "batch_size: got 32, allowed a multiple of workers"),
    ],
)
def test_what_cannot_be_used_is_one_line(changes: dict[str, object], said: str, tmp_path: Path):
    settings = dataclasses.replace(settings_of(tmp_path, votes(100)), **changes)
    with pytest.raises(UserError, match=said) as error:
        train_preference(settings, silent)
    assert "\n" not in str(error.value)


def test_too_few_votes_and_codes_of_another_policy_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="decided votes to learn from"):
        train_preference(settings_of(tmp_path, votes(20)), silent)
    table = replaced(votes(100), "codes_a", [[[17] * 12] * 3] * 100)
    with pytest.raises(UserError, match="got code 17, allowed codes below"):
        train_preference(settings_of(tmp_path, table), silent)


def test_accuracy_needs_no_side(tmp_path: Path):
    """A listener who always takes the first clip teaches a side and no taste."""
    table = votes(400, side=50.0)
    out = train_preference(settings_of(tmp_path, table, steps=20), silent)
    figures = read_training(out)["figures"]
    assert figures["side"] > 2 and figures["accuracy_with_side"]["value"] == 1.0
    assert (read_pairs(str(tmp_path / "votes0.parquet")).choices == A).all()
