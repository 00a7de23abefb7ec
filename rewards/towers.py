"""Small networks that read log-mel spectra of any length, and the captions beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.log_mel import MELS

# Mean and spread of the corpus's log-mel values; constants, so that no clip is judged by its own level.
LOG_MEL_MEAN, LOG_MEL_STD = -7.5, 1.5
MIN_SPECTRA = 25  # 0.5 s; shorter clips are padded by their last spectrum


@dataclass(frozen=True)
class AudioTowerConfig:
    """1-D convolutions along time; each `strides` entry is one layer."""

    channels: tuple[int, ...] = (96, 128, 160, 160)
    strides: tuple[int, ...] = (2, 1, 2, 1)
    kernel: int = 5
    dropout: float = 0.1

    @classmethod
    def of(cls, entries: dict[str, Any]) -> AudioTowerConfig:
        """From the JSON form, in which tuples are lists."""
        return cls(tuple(entries["channels"]), tuple(entries["strides"]), entries["kernel"], entries["dropout"])


class AudioTower(nn.Module):
    """Log-mel [B, 64, F] -> [B, 2C]: convolutions, then mean and maximum over time.

    The mean carries what lasts (timbre, register), the maximum what happens (an onset, a drop-out). Dropout takes
    whole channels before pooling.
    """

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.width = 2 * config.channels[-1]
        ins = (MELS, *config.channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(i, o, config.kernel, stride, config.kernel // 2, bias=False)
            for i, o, stride in zip(ins, config.channels, config.strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for o in config.channels)
        self.dropout = nn.Dropout1d(config.dropout)

    def frame_features(self, log_mel: Tensor) -> Tensor:
        """[B, 64, F] -> [B, C, ceil(F / product of strides)]."""
        x = (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD
        if x.shape[-1] < MIN_SPECTRA:
            x = F.pad(x, (0, MIN_SPECTRA - x.shape[-1]), mode="replicate")
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        return x

    def forward(self, log_mel: Tensor) -> Tensor:
        features = self.dropout(self.frame_features(log_mel))
        return torch.cat([features.mean(-1), features.amax(-1)], dim=1)


@dataclass(frozen=True)
class WideTowerConfig:
    """Residual blocks at 25 Hz whose kernels span 0.6 s each: long enough for the distance between notes."""

    channels: int = 128
    kernel: int = 15
    blocks: int = 4
    dropout: float = 0.1


class WideTower(nn.Module):
    """Log-mel [B, 64, F] -> [B, 3C]: residual blocks of wide depthwise kernels, then mean, maximum and deviation.

    The deviation over time tells busy from sparse where the mean does not: tempo and articulation are heard by it.
    """

    def __init__(self, config: WideTowerConfig) -> None:
        super().__init__()
        self.width = 3 * config.channels
        self.enter = nn.Conv1d(MELS, config.channels, 5, 2, 2)
        self.blocks = nn.ModuleList(_WideBlock(config.channels, config.kernel) for _ in range(config.blocks))
        self.norm = nn.BatchNorm1d(config.channels)
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, log_mel: Tensor) -> Tensor:
        x = (log_mel - LOG_MEL_MEAN) / LOG_MEL_STD
        if x.shape[-1] < MIN_SPECTRA:
            x = F.pad(x, (0, MIN_SPECTRA - x.shape[-1]), mode="replicate")
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        x = self.dropout(F.gelu(self.norm(x)))
        return torch.cat([x.mean(-1), x.amax(-1), (x.var(-1, correction=0) + 1e-5).sqrt()], dim=1)


class _WideBlock(nn.Sequential):
    """One wide kernel a channel, then a mixture of the channels. Source: ConvNeXt (arXiv 2201.03545), figure 4."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            nn.BatchNorm1d(channels),
            nn.Conv1d(channels, 2 * channels, 1),
            nn.GELU(),
            nn.Conv1d(2 * channels, channels, 1),
        )


class ConvolutionTextTower(nn.Module):
    """Word ids [B, L] -> [B, 2W]: embeddings, one convolution over neighbouring words, mean and maximum over words.

    The convolution tells "no drums" from "drums" where a bag of words cannot. Padding (id 0) takes no part.
    """

    def __init__(self, words: int, width: int = 96) -> None:
        super().__init__()
        self.width = 2 * width
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, ids: Tensor) -> Tensor:
        present = (ids != 0).unsqueeze(1).float()  # [B, 1, L]
        embedded = self.embedding(ids).transpose(1, 2)  # [B, W, L]
        x = (embedded + F.gelu(self.neighbours(embedded))) * present
        mean = x.sum(-1) / present.sum(-1).clamp_min(1.0)
        top = x.masked_fill(present == 0, -1e4).amax(-1)
        return torch.cat([mean, torch.where(present.any(-1), top, torch.zeros_like(top))], dim=1)


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """The two layers that end each tower."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
