"""The held-out judges: they never enter a reward. Each is a directory judges/NAME/ with a kind of its own.

    second_text_audio   a second pair of towers: cosine of clip and prompt, in [-1, 1]
    attributes          mean probability of the attributes that the prompt names, in [0, 1]
    tempo               probability of the named tempo given the onsets counted, in [0, 1]
    spectrum            minus the distance from real clips of the named instrument, in standard deviations

The first two learnt on the judge split alone, whose tunes no reward, codec or policy has seen, with another
architecture, another seed and other wordings; the last two count and compare.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.errors import UserError
from cluster.working_copy import local_copy
from evaluation.probes import AttributeJudge, DilatedTower, RecurrentTextTower
from evaluation.signal_measures import SpectrumJudge, TempoJudge
from rewards.checkpoint import load_checkpoint, load_module, read_config, save_checkpoint
from rewards.port import ClipBatch, ClipView, RewardModel
from rewards.towers import head
from rewards.windows import mean_over_windows
from rewards.words import WordTable

SECOND = "second_text_audio"


@runtime_checkable
class Embedder(Protocol):
    """A judge whose tower places clips in a space, for distances within a prompt and between sets of clips."""

    name: str
    version: str

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32, unit length (shorter where it is a mean over windows)."""
        ...


class SecondTowers(nn.Module):
    """Clips and captions as unit vectors: dilated convolutions on one side, a GRU on the other."""

    def __init__(self, vocabulary: list[str], buckets: int = 64, embedding: int = 64) -> None:
        super().__init__()
        self.words = WordTable(vocabulary, buckets)
        self.audio, self.text = DilatedTower(), RecurrentTextTower(self.words.size)
        self.audio_head = head(self.audio.width, 160, embedding)
        self.text_head = head(self.text.width, 160, embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """[B, 64, F] -> [B, D], unit length."""
        return F.normalize(self.audio_head(self.audio(log_mel)), dim=1)

    def embed_text(self, ids: Tensor) -> Tensor:
        """[B, L] -> [B, D], unit length."""
        return F.normalize(self.text_head(self.text(ids)), dim=1)


class SecondTextAudio:
    """The second text-audio judge behind rewards.port."""

    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(self, towers: SecondTowers, version: str, shift: float = 0.0, scale: float = 1.0) -> None:
        self.towers, self.version, self.shift, self.scale, self.name = towers.eval(), version, shift, scale, SECOND

    @classmethod
    def load(cls, directory: str | Path) -> SecondTextAudio:
        """Raises UserError where the directory holds no complete second text-audio judge."""
        checkpoint = load_checkpoint(directory, SECOND)
        config = checkpoint.config
        towers = SecondTowers(config["vocabulary"], config["buckets"], config["embedding"])
        load_module(towers, checkpoint, directory)
        return cls(towers, checkpoint.version, config["shift"], config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 cosines."""
        return (self.embed(clips) * self.embed_prompts(clips.prompts)).sum(1).astype(np.float32)

    def embed(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None, "the second text-audio judge reads log_mel"
        return mean_over_windows(clips.log_mel, self.towers.embed_audio)

    def embed_prompts(self, prompts: tuple[str, ...] | list[str]) -> np.ndarray:
        """-> [B, D] float32, unit length."""
        with torch.inference_mode():
            return self.towers.embed_text(self.towers.words.encode(prompts)).numpy()


def save_second_text_audio(directory: str | Path, towers: SecondTowers) -> None:
    entries = {
        "kind": SECOND,
        "vocabulary": towers.words.vocabulary,
        "buckets": towers.words.buckets,
        "embedding": towers.text_head[-1].out_features,
        "shift": 0.0,
        "scale": 1.0,
    }
    save_checkpoint(directory, entries, towers.state_dict())


LOADERS: dict[str, Callable[[str | Path], RewardModel]] = {
    SECOND: SecondTextAudio.load,
    "attributes": AttributeJudge.load,
    TempoJudge.kind: TempoJudge.load,
    SpectrumJudge.kind: SpectrumJudge.load,
}


def load_judges(directory: str | Path) -> list[RewardModel]:
    """Every judge of a directory, in the order of LOADERS, then by name. An empty path gives none.

    Raises UserError: no such directory, nothing in it, a judge of unknown kind or with broken files.
    """
    if not str(directory):
        return []
    folder = local_copy(directory, "judges")
    if not folder.is_dir():
        raise UserError(f"judges: got {str(directory)!r}, allowed an existing directory")
    places = [place for place in folder.iterdir() if (place / "config.json").is_file()]
    if not places:
        raise UserError(f"judges: got {folder} without a judge in it, allowed a directory of judges/NAME/config.json")
    kinds = {place: str(read_config(place).get("kind")) for place in places}
    for place, kind in kinds.items():
        if kind not in LOADERS:
            raise UserError(f"judges: got kind {kind!r} in {place}, allowed {', '.join(LOADERS)}")
    order = list(LOADERS)
    ordered = sorted(places, key=lambda place: (order.index(kinds[place]), place.name))
    return [_named(LOADERS[kinds[place]](place), place.name) for place in ordered]


def embedder_of(judges: list[RewardModel]) -> Embedder | None:
    """The first judge with a space of its own: the second text-audio judge where there is one."""
    return next((judge for judge in judges if isinstance(judge, Embedder)), None)


def _named(judge: RewardModel, name: str) -> RewardModel:
    judge.name = name
    return judge
