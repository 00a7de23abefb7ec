"""Teaches the semantic features what is going on in the music, then clusters them into tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.quantizer import k_means
from codec.semantic import SemanticConfig, SemanticFeatures, SemanticTokenizer, save_semantic

SHARPNESS = 8.0  # of the heads' logits over unit-length features
CLIP_WEIGHT = 0.15  # clip facts against frame facts: enough to keep the instrument audible in the tokens


@dataclass(frozen=True)
class Lesson:
    """A batch with its truth: mel [B, 64, F], frame facts [B, T, P] in {0, 1}, clip facts [B, A] as class indices."""

    mel: Tensor
    frame_facts: Tensor
    clip_facts: Tensor


class Teacher(Protocol):
    """Where lessons come from. `classes` are the numbers of values of the A clip facts."""

    @property
    def classes(self) -> tuple[int, ...]: ...

    def lesson(self, rng: np.random.Generator, size: int) -> Lesson: ...


@dataclass(frozen=True)
class SemanticTraining:
    steps: int = 700
    batch: int = 32
    rate: float = 2e-3
    seed: int = 0
    clusters_from: int = 20  # batches whose frames are clustered


def train_semantic(
    teacher: Teacher,
    directory: str | Path,
    training: SemanticTraining | None = None,
    config: SemanticConfig | None = None,
    say: Callable[[str], None] = print,
) -> SemanticTokenizer:
    """Trains, clusters and exports to `directory`. The same seed gives the same tokenizer."""
    t, config = training or SemanticTraining(), config or SemanticConfig()
    torch.manual_seed(t.seed)
    rng = np.random.default_rng((t.seed, 31))
    net = SemanticFeatures(config)
    first = teacher.lesson(rng, 2)
    heads = _Heads(config.features, first.frame_facts.shape[-1], teacher.classes)
    parameters = [*net.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=t.rate, weight_decay=1e-2)
    for step in range(t.steps):
        lesson = teacher.lesson(rng, t.batch)
        losses = heads.losses(net(lesson.mel), lesson)
        loss = losses["frames"] + CLIP_WEIGHT * losses["clips"]
        for group in optimiser.param_groups:
            group["lr"] = t.rate * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / t.steps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == t.steps - 1:
            say(f"semantic: step {step} of {t.steps}, " + " ".join(f"{k} {v.item():.3f}" for k, v in losses.items()))
    tokenizer = SemanticTokenizer(net.eval(), _cluster(net, teacher, t, config, rng), config)
    save_semantic(tokenizer, directory)
    return tokenizer


class _Heads(nn.Module):
    """Linear readers of the features: one logit for every frame fact, one softmax over pooled frames a clip fact."""

    def __init__(self, features: int, frame_facts: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.frames = nn.Linear(features, frame_facts)
        self.clips = nn.ModuleList(nn.Linear(features, count) for count in classes)

    def losses(self, features: Tensor, lesson: Lesson) -> dict[str, Tensor]:
        x = features.transpose(1, 2) * SHARPNESS
        frames = F.binary_cross_entropy_with_logits(self.frames(x), lesson.frame_facts)
        pooled = x.mean(1)
        clips = [F.cross_entropy(head(pooled), lesson.clip_facts[:, i]) for i, head in enumerate(self.clips)]
        return {"frames": frames * 5.0, "clips": torch.stack(clips).mean()}


@torch.no_grad()
def _cluster(
    net: SemanticFeatures, teacher: Teacher, t: SemanticTraining, config: SemanticConfig, rng: np.random.Generator
) -> Tensor:
    frames = [net(teacher.lesson(rng, t.batch).mel).transpose(1, 2).flatten(0, 1) for _ in range(t.clusters_from)]
    return k_means(torch.cat(frames), config.entries, torch.Generator().manual_seed(t.seed), rounds=25)
