"""What the held-out judges are made of: networks of another family than the rewards', and the attribute judge.

Residual dilated convolutions with mean and deviation pooling, and a recurrent text tower, trained on the judge split
only; the rewards use strided convolutions with mean and maximum pooling and a convolutional text tower.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.log_mel import MELS
from rewards.checkpoint import load_checkpoint, load_module, save_checkpoint
from rewards.port import ClipBatch, ClipView
from rewards.prompt_attributes import named_attributes
from rewards.towers import LOG_MEL_MEAN, LOG_MEL_STD, MIN_SPECTRA
from rewards.windows import mean_over_windows
from world.attributes import ATTRIBUTES

KIND = "attributes"


class DilatedTower(nn.Module):
    """Log-mel [B, 64, F] -> [B, 2C]: one strided convolution, residual blocks of growing reach, mean and deviation."""

    def __init__(self, channels: int = 112, dilations: tuple[int, ...] = (1, 2, 4, 8)) -> None:
        super().__init__()
        self.width = 2 * channels
        self.enter = nn.Conv1d(MELS, channels, 7, 2, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, 3, padding=d, dilation=d))
            for d in dilations
        )
        self.leave = nn.BatchNorm1d(channels)

    def forward(self, log_mel: Tensor) -> Tensor:
        x = (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD
        if x.shape[-1] < MIN_SPECTRA:
            x = F.pad(x, (0, MIN_SPECTRA - x.shape[-1]), mode="replicate")
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        x = F.relu(self.leave(x))
        return torch.cat([x.mean(-1), (x.var(-1, correction=0) + 1e-5).sqrt()], dim=1)


class RecurrentTextTower(nn.Module):
    """Word ids [B, L] -> [B, 2W]: a bidirectional GRU, averaged over the words that are there."""

    def __init__(self, words: int, width: int = 64) -> None:
        super().__init__()
        self.width = 2 * width
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> Tensor:
        present = (ids != 0).unsqueeze(-1).float()  # [B, L, 1]
        states, _ = self.recurrent(self.embedding(ids))
        return (states * present).sum(1) / present.sum(1).clamp_min(1.0)


class AttributeProbe(nn.Module):
    """Log-mel [B, 64, F] -> logits of every attribute."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.tower = DilatedTower()
        self.hidden = nn.Sequential(nn.Linear(self.tower.width, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(values)) for name, values in ATTRIBUTES.items()})

    def features(self, log_mel: Tensor) -> Tensor:
        """-> [B, hidden], what the heads read."""
        return self.hidden(self.tower(log_mel))

    def forward(self, log_mel: Tensor) -> dict[str, Tensor]:
        features = self.features(log_mel)
        return {name: attribute(features) for name, attribute in self.heads.items()}

    def probabilities(self, log_mel: Tensor) -> Tensor:
        """-> [B, sum of values], the attributes' distributions side by side in the order of ATTRIBUTES."""
        logits = self(log_mel)
        return torch.cat([logits[name].softmax(1) for name in ATTRIBUTES], dim=1)


class AttributeJudge:
    """score = mean probability of the values that the prompt names, in [0, 1]; NaN where it names none."""

    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(self, probe: AttributeProbe, version: str, shift: float, scale: float, name: str = KIND) -> None:
        self.probe, self.version, self.shift, self.scale, self.name = probe.eval(), version, shift, scale, name
        edges = np.cumsum([0] + [len(values) for values in ATTRIBUTES.values()])
        self._slices = {name: slice(a, b) for name, a, b in zip(ATTRIBUTES, edges, edges[1:], strict=False)}

    @classmethod
    def load(cls, directory: str | Path) -> AttributeJudge:
        """Raises UserError where the directory holds no complete attribute judge."""
        checkpoint = load_checkpoint(directory, KIND)
        probe = AttributeProbe(checkpoint.config["hidden"])
        load_module(probe, checkpoint, directory)
        return cls(probe, checkpoint.version, checkpoint.config["shift"], checkpoint.config["scale"])

    def probabilities(self, log_mel: np.ndarray) -> dict[str, np.ndarray]:
        """[B, 64, F] -> by attribute [B, values], mean over windows."""
        every = mean_over_windows(log_mel, self.probe.probabilities)
        return {name: every[:, part] for name, part in self._slices.items()}

    def class_probabilities(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, M], the attributes' distributions side by side, mean over windows."""
        assert clips.log_mel is not None, "the attribute judge reads log_mel"
        return mean_over_windows(clips.log_mel, self.probe.probabilities)

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None, "the attribute judge reads log_mel"
        read = self.probabilities(clips.log_mel)
        return np.array([self._fulfilled(prompt, row, read) for row, prompt in enumerate(clips.prompts)], np.float32)

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32, unit length."""
        assert clips.log_mel is not None, "the attribute judge reads log_mel"
        features = mean_over_windows(clips.log_mel, self.probe.features)
        return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-6)

    def _fulfilled(self, prompt: str, row: int, read: dict[str, np.ndarray]) -> float:
        named = named_attributes(prompt)
        chances = [read[name][row, ATTRIBUTES[name].index(value)] for name, value in named.items()]
        return float(np.mean(chances)) if chances else float("nan")


def save_attribute_judge(directory: str | Path, probe: AttributeProbe, hidden: int = 128) -> None:
    save_checkpoint(directory, {"kind": KIND, "hidden": hidden, "shift": 0.0, "scale": 1.0}, probe.state_dict())
