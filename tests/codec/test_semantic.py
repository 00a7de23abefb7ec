"""Semantic tokens: shapes, checkpoints, and clusters that follow what the features were taught."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import UserError
from codec.log_mel import log_mel
from codec.semantic import SemanticConfig, SemanticTokenizer, load_semantic
from codec.semantic_train import Lesson, SemanticTraining, train_semantic

SMALL = SemanticConfig(width=24, hidden=32, blocks=1, features=8, entries=16)
FREQUENCIES_HZ = (200.0, 350.0, 600.0, 1000.0, 1700.0)


class ToneTeacher:
    """Every 0.2 s one of five tones; the frame facts say which, the clip fact how loud."""

    classes = (2,)

    def lesson(self, rng: np.random.Generator, size: int) -> Lesson:
        picks = torch.as_tensor(rng.integers(0, 5, size=(size, 5)))
        loud = torch.as_tensor(rng.integers(0, 2, size=(size, 1)))
        t = torch.arange(3200) / 16_000
        tones = torch.stack([torch.sin(2 * math.pi * f * t) for f in FREQUENCIES_HZ])
        pcm = tones[picks].flatten(1) * (0.05 + 0.4 * loud)
        pcm = pcm + 0.01 * torch.as_tensor(rng.standard_normal(tuple(pcm.shape)), dtype=torch.float32)
        facts = torch.nn.functional.one_hot(picks.repeat_interleave(5, dim=1), 5).float()
        return Lesson(log_mel(pcm), facts, loud)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticTokenizer, Path]:
    folder = tmp_path_factory.mktemp("semantic")
    training = SemanticTraining(steps=60, batch=8, rate=5e-3)
    return train_semantic(ToneTeacher(), folder, training, SMALL, lambda _: None), folder


def test_tokens_tell_which_tone_sounds(trained: tuple[SemanticTokenizer, Path]) -> None:
    lesson = ToneTeacher().lesson(np.random.default_rng(9), 32)
    tokens = trained[0].encode_log_mel(lesson.mel)[:, 0]
    tone = lesson.frame_facts.argmax(-1)
    table = torch.zeros(16, 5).index_put_((tokens.flatten(), tone.flatten()), torch.ones(1), accumulate=True)
    assert float(table.max(1).values.sum() / table.sum()) > 0.8  # chance: 0.2


def test_shapes_and_units(trained: tuple[SemanticTokenizer, Path]) -> None:
    tokens = trained[0].encode(torch.randn(2, 1, 16_000) * 0.1)
    assert tokens.shape == (2, 1, 25)
    assert trained[0].frame_rate_hz == 25.0
    assert trained[0].codebook_sizes == (16,)
    with pytest.raises(ValueError, match="pcm: got shape"):
        trained[0].encode(torch.zeros(2, 16_000))


def test_export_loads_with_nearly_the_same_tokens(trained: tuple[SemanticTokenizer, Path]) -> None:
    loaded = load_semantic(trained[1])
    mel = ToneTeacher().lesson(np.random.default_rng(3), 16).mel
    same = loaded.encode_log_mel(mel) == trained[0].encode_log_mel(mel)
    assert float(same.float().mean()) > 0.95
    assert loaded.version == load_semantic(trained[1]).version


def test_broken_checkpoints_are_refused(trained: tuple[SemanticTokenizer, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"semantic: got .* without config.json"):
        load_semantic(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "magnitude_codec"}')
    with pytest.raises(UserError, match="of kind 'magnitude_codec'"):
        load_semantic(tmp_path)
    (tmp_path / "config.json").write_text((trained[1] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((trained[1] / "model.safetensors").read_bytes()[:200])
    with pytest.raises(UserError, match="broken"):
        load_semantic(tmp_path)
