"""The head is fitted first: it learns, and nothing else moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from preference_parts import make_policy, utility, votes

from policy.checkpoint import load_policy
from rewards.preference_head import fit_head
from rewards.preference_net import PreferenceNet
from rewards.preference_pairs import write_pairs
from rewards.preference_settings import PreferenceSettings
from rewards.preference_task import fresh_net, make_task, make_trainer, read_task_pairs
from rewards.preference_training import Votes


def make_fit(folder: Path, **more: object) -> tuple[PreferenceNet, Votes]:
    make_policy(folder / "policy")
    write_pairs(folder / "votes.parquet", votes(count=600, taste=4.0))
    settings = PreferenceSettings(pairs=str(folder / "votes.parquet"), policy=str(folder / "policy"), **more)
    policy = load_policy(settings.policy)
    task = make_task(settings, policy, read_task_pairs(settings, policy))
    return fresh_net(settings, policy), task.train


def test_the_fitted_head_foretells_the_planted_utility(tmp_path: Path) -> None:
    net, train = make_fit(tmp_path)
    fit_head(net, train, "davidson", 0, seed=0)
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 16, (200, 3, 12))
    codes[:100, 1] //= 2  # low codes only: liked
    text = net.encode_text([""] * 200)
    with torch.no_grad():
        scores = net(torch.from_numpy(codes), torch.full((200,), 12), text).numpy()
    assert np.corrcoef(scores, utility(codes))[0, 1] > 0.5


def test_only_head_side_ties_and_scaling_move(tmp_path: Path) -> None:
    net, train = make_fit(tmp_path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit_head(net, train, "davidson", 0, seed=0)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.partition(".")[0] for name in moved} == {
        *("head", "side", "log_nu", "features_mean", "features_spread")
    }


def test_features_reach_the_head_with_unit_spread(tmp_path: Path) -> None:
    net, train = make_fit(tmp_path, dropout=0.0)
    fit_head(net, train, "davidson", 0, seed=0)
    codes, frames = torch.from_numpy(train.codes[:, 0].astype(np.int64)), torch.from_numpy(train.frames[:, 0])
    with torch.no_grad():
        features = net.eval().features(codes, frames, torch.from_numpy(train.text))
    scaled = (features - net.features_mean) / net.features_spread
    assert scaled.mean(0).abs().max() < 0.3
    assert (scaled.std(0) - 1).abs().max() < 0.4


def test_a_restored_training_does_not_fit_the_head_again(tmp_path: Path) -> None:
    make_fit(tmp_path)
    settings = PreferenceSettings(pairs=str(tmp_path / "votes.parquet"), policy=str(tmp_path / "policy"))
    policy = load_policy(settings.policy)
    task = make_task(settings, policy, read_task_pairs(settings, policy))
    assert torch.equal(make_trainer(task, restored=True).net.features_spread, torch.ones(2 * 32))
    assert not torch.equal(make_trainer(task).net.features_spread, torch.ones(2 * 32))
