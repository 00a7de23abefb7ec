"""Damage: more severity is more damage, none is none, loudness stays, and some kinds are never taught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.log_mel import log_mel
from world.degradations import CLEAN, SEEN_KINDS, SPOILERS, UNSEEN_KINDS, degrade, mixed_quality, wrong_tokens


@pytest.fixture(scope="module")
def pcm() -> Tensor:
    rng = np.random.default_rng(0)
    t = np.arange(6400) / 16_000
    clips = []
    for _ in range(4):
        hz = 150 * 2 ** (rng.integers(0, 30, size=5) / 12)
        notes = [sum(np.sin(2 * math.pi * f * h * t) / h for h in range(1, 8)) * np.exp(-t * 4) for f in hz]
        clips.append(0.2 * np.concatenate(notes) + 0.002 * rng.standard_normal(32_000))
    return torch.tensor(np.array(clips), dtype=torch.float32)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((log_mel(a) - log_mel(b)).abs().mean())


@pytest.mark.parametrize("kind", sorted(SPOILERS))
def test_more_severity_is_more_damage(pcm: Tensor, kind: str) -> None:
    distances = [
        _distance(degrade(pcm, np.random.default_rng(3), (kind,), torch.full((4,), s))[0], pcm)
        for s in (0.0, 0.3, 0.6, 1.0)
    ]
    assert distances[0] < 0.01
    assert distances[0] < distances[1] < distances[2] < distances[3]
    assert distances[3] > 0.15


@pytest.mark.parametrize("kind", sorted(SPOILERS))
def test_loudness_is_kept_and_values_stay_in_range(pcm: Tensor, kind: str) -> None:
    out, kinds, severity = degrade(pcm, np.random.default_rng(4), (kind,), torch.full((4,), 0.6))
    assert kinds == [kind] * 4
    assert severity.tolist() == pytest.approx([0.6] * 4)
    assert out.shape == pcm.shape
    assert float(out.abs().max()) <= 1.0
    torch.testing.assert_close(out.square().mean(1).sqrt(), pcm.square().mean(1).sqrt(), rtol=0.02, atol=0)


def test_unseen_kinds_are_not_drawn(pcm: Tensor) -> None:
    rng, drawn = np.random.default_rng(5), set()
    for _ in range(30):
        drawn |= set(degrade(pcm[:, :6400], rng)[1])
    assert drawn == set(SEEN_KINDS)
    assert not drawn & set(UNSEEN_KINDS)
    assert len(UNSEEN_KINDS) == 2


def test_the_input_is_left_alone_and_seeds_repeat(pcm: Tensor) -> None:
    before = pcm.clone()
    first, second = (degrade(pcm, np.random.default_rng(6)) for _ in range(2))
    assert torch.equal(pcm, before)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


def test_mixed_quality_damages_its_share_and_says_which(pcm: Tensor) -> None:
    many = pcm[:, :6400].repeat(50, 1)
    out, kinds, severity = mixed_quality(many, np.random.default_rng(7), share=0.4)
    clean = torch.tensor([kind == CLEAN for kind in kinds])
    assert 1 - float(clean.float().mean()) == pytest.approx(0.4, abs=0.1)
    assert torch.equal(out[clean], many[clean])
    assert bool((severity[clean] == 0).all())
    assert bool((severity[~clean] >= 0.25).all())
    assert bool(((out - many).abs().amax(1)[~clean] > 0).all())


def test_wrong_tokens_replaces_whole_frames_by_severity() -> None:
    codes = torch.zeros(3, 4, 1000, dtype=torch.long)
    out = wrong_tokens(codes, np.random.default_rng(8), torch.tensor([0.0, 0.5, 1.0]))
    share = (out != 0).any(1).float().mean(1).tolist()
    assert share[0] == 0
    assert share[1] == pytest.approx(0.5 * 0.5**1.5, abs=0.05)
    assert share[2] == pytest.approx(0.5, abs=0.06)
