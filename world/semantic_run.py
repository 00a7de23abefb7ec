"""Trains the world's semantic tokenizer from the scores of its own clips, and measures what the tokens know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.log_mel import log_mel
from codec.quantizer import perplexity
from codec.semantic import SemanticTokenizer
from codec.semantic_train import Lesson, SemanticTraining, train_semantic
from world.attributes import ATTRIBUTES
from world.corpus import Corpus, CorpusSplit
from world.truth import CHORDS_SOUND, LEAD_SOUNDS, PITCH_CLASS, ROOT, frame_facts


class ScoreTeacher:
    """Lessons from a split: sound, the score's facts frame by frame, the attributes of the clip."""

    def __init__(self, clips: CorpusSplit) -> None:
        self.clips = clips
        self.facts = torch.from_numpy(frame_facts(clips.scores(), clips.table["chords"].to_pylist()))
        self.labels = torch.stack([clips.attribute_labels(name) for name in ATTRIBUTES], 1)

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(len(values) for values in ATTRIBUTES.values())

    def lesson(self, rng: np.random.Generator, size: int) -> Lesson:
        rows = torch.as_tensor(rng.integers(len(self.clips), size=size))
        return Lesson(log_mel(self.clips.pcm(rows)), self.facts[rows].float(), self.labels[rows])


def train_world_semantic(
    corpus: Corpus, directory: str | Path, steps: int = 700, seed: int = 0, say: Callable[[str], None] = print
) -> SemanticTokenizer:
    """Trains on the split "train" only and exports to `directory`."""
    teacher = ScoreTeacher(corpus.split("train"))
    return train_semantic(teacher, directory, SemanticTraining(steps=steps, seed=seed), say=say)


def measure_semantic(tokenizer: SemanticTokenizer, clips: CorpusSplit, count: int = 256) -> dict[str, float]:
    """How well a frame's token alone tells pitch class, chord root and instrument, as the best guess for each token
    (made on the first half of the clips, tested on the second); with the guess that ignores the token beside it."""
    count = min(count, len(clips))
    batches = [range(first, min(first + 32, count)) for first in range(0, count, 32)]
    tokens = torch.cat([tokenizer.encode(clips.pcm(batch)[:, None]) for batch in batches])
    facts = torch.from_numpy(frame_facts(clips.scores().slice(0, count), clips.table["chords"].to_pylist()[:count]))
    lead = clips.attribute_labels("lead")[:count, None].expand(-1, tokens.shape[2])
    pitch = torch.where(facts[..., LEAD_SOUNDS] > 0, facts[..., PITCH_CLASS].argmax(-1), -1)
    root = torch.where(facts[..., CHORDS_SOUND] > 0, facts[..., ROOT].argmax(-1), -1)
    entries = tokenizer.config.entries
    figures = {"perplexity": perplexity(tokens, entries)[0]}
    for name, truth in (("pitch_class", pitch), ("root", root), ("lead", lead)):
        figures[name], figures[f"{name}_blind"] = _token_accuracy(tokens[:, 0], truth, entries)
    return figures


def _token_accuracy(tokens: Tensor, truth: Tensor, entries: int) -> tuple[float, float]:
    """tokens, truth [B, T] (-1: no truth) -> accuracy of each token's best guess, accuracy of one guess for all."""
    half = len(tokens) // 2
    seen, unseen = truth[:half] >= 0, truth[half:] >= 0
    values = int(truth.max()) + 1
    index = tokens[:half][seen] * values + truth[:half][seen]
    table = torch.bincount(index, minlength=entries * values).view(entries, values)
    guess, wanted = table.argmax(1)[tokens[half:][unseen]], truth[half:][unseen]
    blind = table.sum(0).argmax()
    return float((guess == wanted).float().mean()), float((wanted == blind).float().mean())
