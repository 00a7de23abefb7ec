"""Does the clip sound like its prompt? Two towers trained by contrast: the MuLan of the tiny world.

score = cosine of the clip's and the prompt's embeddings, in [-1, 1]; clips over 4 s by the mean over windows.
Source: MusicRL section 3.3 (the MuLan score).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.checkpoint import load_checkpoint, load_module, save_checkpoint
from rewards.port import ClipBatch, ClipView
from rewards.towers import ConvolutionTextTower, WideTower, WideTowerConfig, head
from rewards.windows import mean_over_windows
from rewards.words import WordTable

KIND = "text_adherence"


@dataclass(frozen=True)
class TwoTowersConfig:
    vocabulary: tuple[str, ...] = ()
    buckets: int = 64
    text_width: int = 96
    hidden: int = 192
    embedding: int = 96
    audio: WideTowerConfig = field(default_factory=WideTowerConfig)


class TwoTowers(nn.Module):
    """Clips and captions as unit vectors of one space. The temperature is learnt in training and unused in scoring."""

    def __init__(self, config: TwoTowersConfig) -> None:
        super().__init__()
        self.words = WordTable(config.vocabulary, config.buckets)
        self.audio = WideTower(config.audio)
        self.text = ConvolutionTextTower(self.words.size, config.text_width)
        self.audio_head = head(self.audio.width, config.hidden, config.embedding)
        self.text_head = head(self.text.width, config.hidden, config.embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """[B, 64, F] -> [B, D], unit length."""
        return F.normalize(self.audio_head(self.audio(log_mel)), dim=1)

    def embed_text(self, ids: Tensor) -> Tensor:
        """[B, L] -> [B, D], unit length."""
        return F.normalize(self.text_head(self.text(ids)), dim=1)


class TextAdherence:
    """The reward model of rewards.port over a pair of trained towers."""

    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(
        self, towers: TwoTowers, version: str, shift: float = 0.0, scale: float = 1.0, name: str = KIND
    ) -> None:
        self.towers, self.version, self.shift, self.scale, self.name = towers.eval(), version, shift, scale, name

    @classmethod
    def load(cls, directory: str | Path) -> TextAdherence:
        """Raises UserError where the directory holds no complete text-adherence model."""
        checkpoint = load_checkpoint(directory, KIND)
        towers = TwoTowers(towers_config(checkpoint.config["towers"]))
        load_module(towers, checkpoint, directory)
        return cls(towers, checkpoint.version, checkpoint.config["shift"], checkpoint.config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 cosines; NaN where a clip holds a non-finite value."""
        assert clips.log_mel is not None, "text adherence reads log_mel"
        text = self.embed_prompts(clips.prompts)
        audio = mean_over_windows(clips.log_mel, self.towers.embed_audio)  # mean of cosines = cosine with the mean
        return (audio * text).sum(1).astype(np.float32)

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32 clip embeddings, mean over windows."""
        assert clips.log_mel is not None, "text adherence reads log_mel"
        return mean_over_windows(clips.log_mel, self.towers.embed_audio)

    def embed_prompts(self, prompts: tuple[str, ...] | list[str]) -> np.ndarray:
        """-> [B, D] float32, unit length."""
        with torch.inference_mode():
            return self.towers.embed_text(self.towers.words.encode(prompts)).numpy()


def save_text_adherence(directory: str | Path, towers: TwoTowers, config: TwoTowersConfig, **more: Any) -> None:
    """`more` goes into config.json; shift and scale start as 0 and 1."""
    entries = {"kind": KIND, "towers": asdict(config), "shift": 0.0, "scale": 1.0, **more}
    save_checkpoint(directory, entries, towers.state_dict())


def towers_config(entries: dict[str, Any]) -> TwoTowersConfig:
    """From the JSON form."""
    return TwoTowersConfig(
        **{**entries, "audio": WideTowerConfig(**entries["audio"]), "vocabulary": tuple(entries["vocabulary"])}
    )
