"""Supervised pretraining: it learns, it resumes exactly, its material is what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_parts import small_policy

from cluster.errors import RunFailed, UserError
from learner.supervised import (
    STATE,
    Material,
    SupervisedSettings,
    SupervisedTraining,
    batch,
    bits_per_token,
    learning_rate,
)
from policy.checkpoint import load_policy

SETTINGS = SupervisedSettings(
    steps=60, batch_size=16, learning_rate=1e-2, warmup_steps=5, crop_least=8, crop_most=16, report_every=20
)


def material(rows: int = 64, seed: int = 0) -> Material:
    """Slow pieces repeat a token, fast ones count up; the second stream copies the first, the third is noise."""
    rng = np.random.default_rng(seed)
    fast = rng.random(rows) < 0.5
    first = rng.integers(16, size=(rows, 1)) + np.arange(16) * fast[:, None]
    codes = np.stack([first % 16, first % 16, rng.integers(16, size=(rows, 16))], axis=1).astype(np.uint8)
    return Material(codes, ["fast piano" if quick else "slow piano" for quick in fast])


def training(
    directory: Path, settings: SupervisedSettings = SETTINGS, lines: list[str] | None = None
) -> SupervisedTraining:
    say = lines.append if lines is not None else (lambda _: None)
    return SupervisedTraining(small_policy(), material(), material(seed=1), directory, settings, say)


def test_it_learns_what_can_be_known(tmp_path: Path) -> None:
    lines: list[str] = []
    facts = training(tmp_path, replace(SETTINGS, steps=150), lines).run()
    unseen = material(seed=2)
    bits = bits_per_token(load_policy(tmp_path), unseen.codes, unseen.captions)
    assert bits[0] < 1.0  # 4 at first, then known from caption and past
    assert bits[1] < 0.5
    assert 3.8 < bits[2] < 4.8  # noise stays noise
    other = ["slow piano" if "fast" in caption else "fast piano" for caption in unseen.captions]
    assert bits_per_token(load_policy(tmp_path), unseen.codes, other)[0] > bits[0] + 0.05
    assert json.loads((tmp_path / "training.json").read_text()) == facts
    assert facts["steps"] == 150
    assert any("valid" in line and "min left" in line for line in lines)
    assert not (tmp_path / STATE).exists()


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=12, checkpoint_every=5)
    whole = training(tmp_path / "whole", settings)
    whole.run()
    stopped = training(tmp_path / "stopped", settings)
    for _ in range(8):  # the state of step 5 is on disk, those after it are lost
        stopped.update()
        if stopped.step == 5:
            stopped._save()
    resumed = training(tmp_path / "stopped", settings)
    resumed.run()
    assert resumed.step == 12
    pairs = zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    first = training(tmp_path, replace(SETTINGS, steps=12))
    first._save()
    with pytest.raises(UserError, match="other settings"):
        training(tmp_path, replace(SETTINGS, steps=13)).run()


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.policy.depth.heads.data[0] = torch.nan
    before = run.policy.trunk.embed_start.detach().clone()
    with pytest.raises(RunFailed, match="step 0"):
        run.update()
    assert torch.equal(before, run.policy.trunk.embed_start)


def test_every_row_comes_once_an_epoch_and_crops_are_of_one_length() -> None:
    codes = np.arange(40, dtype=np.uint8)[:, None, None] + np.zeros((1, 3, 16), np.uint8)
    settings = replace(SETTINGS, batch_size=10)
    parts = [batch(codes, step, settings) for step in range(4)]
    assert sorted(torch.cat([rows for _, rows, _ in parts]).tolist()) == list(range(40))
    lengths = {cut.shape[2] for cut, _, _ in parts}
    assert all(8 <= length <= 16 for length in lengths)
    assert len(lengths) > 1
    assert all(torch.equal(cut[:, 0, 0], rows) for cut, rows, _ in parts)
    again = batch(codes, 2, settings)
    assert all(torch.equal(a, b) for a, b in zip(parts[2], again, strict=True))


def test_half_of_the_crops_begin_with_the_clip_and_a_tenth_of_the_captions_is_dropped() -> None:
    codes = np.broadcast_to(np.arange(100, dtype=np.uint8), (8, 3, 100))
    parts = [batch(codes, step, SupervisedSettings(batch_size=64)) for step in range(100)]
    first = torch.cat([cut[:, 0, 0] for cut, _, _ in parts if cut.shape[2] < 90])
    assert 0.45 < float((first == 0).float().mean()) < 0.57
    dropped = torch.cat([gone for _, _, gone in parts]).float()
    assert 0.08 < float(dropped.mean()) < 0.12


def test_a_dropped_caption_is_the_null_condition(tmp_path: Path) -> None:
    run = training(tmp_path, replace(SETTINGS, caption_dropout=1.0, steps=2))
    seen: list[torch.Tensor] = []
    run.policy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    run.update()
    assert torch.equal(seen[0], torch.zeros_like(seen[0]))


def test_the_rate_rises_and_falls() -> None:
    settings = SupervisedSettings(steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in (0, 9, 10, 60, 109)]
    assert rates[:3] == [0.1, 1.0, 1.0]
    assert math.isclose(rates[3], 0.5)
    assert 0.0 < rates[4] < 1e-3


@pytest.mark.parametrize(
    ("codes", "captions", "told"),
    [
        (np.zeros((4, 2, 8), np.uint8), ["a"] * 4, "allowed \\[n, 3, frames\\]"),
        (np.zeros((0, 3, 8), np.uint8), [], "allowed"),
        (np.zeros((4, 3, 8), np.uint8), ["a"], "1 captions for 4"),
        (np.full((4, 3, 8), 16, np.uint8), ["a"] * 4, "allowed below"),
    ],
)
def test_material_that_does_not_fit_is_refused(
    codes: np.ndarray, captions: list[str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        SupervisedTraining(small_policy(), Material(codes, captions), material(), tmp_path, SETTINGS)
