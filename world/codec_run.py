"""Trains the world's codec on the world's corpus: clean clips and a share of damaged ones, for it must carry both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.magnitude_codec import MagnitudeCodec
from codec.train import Clips, CodecTraining, train_codec
from world.corpus import Corpus
from world.degradations import degrade

DAMAGED_CLIPS = 800
DAMAGED_SHARE = 0.2


class CodecMaterial:
    """Clips of a split; one in five comes from a pool of damaged ones made at the start."""

    def __init__(self, clips: Clips, seed: int, damaged: int = DAMAGED_CLIPS, share: float = DAMAGED_SHARE) -> None:
        self.clips, self.share = clips, share
        self.rng = np.random.default_rng((seed, 21))
        count = min(damaged, len(clips))
        chosen = self.rng.choice(len(clips), size=count, replace=False)
        pool = [degrade(clips.pcm(chosen[first : first + 32]), self.rng)[0].half() for first in range(0, count, 32)]
        self.pool = torch.cat(pool)

    def __len__(self) -> int:
        return len(self.clips)

    def pcm(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        pcm = self.clips.pcm(indices)
        hit = torch.as_tensor(self.rng.random(len(pcm)) < self.share)
        picks = torch.as_tensor(self.rng.integers(len(self.pool), size=len(pcm)))
        return torch.where(hit[:, None], self.pool[picks].float(), pcm)


def train_world_codec(
    corpus: Corpus,
    directory: str | Path,
    minutes: float = 35.0,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> MagnitudeCodec:
    """Trains on the split "train" only, reports on "valid", exports to `directory`. Goes on where it was stopped."""
    say("codec: making the damaged part of its material")
    material = CodecMaterial(corpus.split("train"), seed)
    training = CodecTraining(minutes=minutes, seed=seed)
    return train_codec(material, corpus.split("valid"), directory, training, say=say)
