"""The convolutional block that the codec and the semantic features are built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """ConvNeXt block on [B, F, D]: depthwise convolution over 7 frames, then a two-layer perceptron, residual.

    Source: Liu et al. 2022 (arXiv 2201.03545), section 2.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.narrow(F.gelu(self.wide(self.norm(mixed))))
