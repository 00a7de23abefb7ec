"""Trains the embedded reward models.

    python -m rewards.train preference|personal pairs=FILE.parquet [key=value …]   (docs/preference-model.md)
    python -m rewards.train text_adherence|quality [corpus=build/world] [codec=build/tiny/codec] [out=DIR]
                            [steps=N] [batch_size=N] [learning_rate=X] [seed=N] [threads=N]

Without a codec (codec=none) the models know originals and damaged originals only; scores of what a policy plays then
drift from scores of real sound, so a shipped model is always trained with one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.errors import UserError
from codec.port import Codec
from configs.command_line import exit_status_of, parse_settings
from rewards.bank import NO_CLIP, VIEWS, Bank, batches, build_bank, saved_bank
from rewards.checkpoint import write_training
from rewards.contrast import UNSAID, Prototypes, contrastive_loss
from rewards.prompt_attributes import compatible, named_attributes
from rewards.quality import QualityConfig, QualityNet, mos_of_severity, save_quality
from rewards.text_adherence import TwoTowers, TwoTowersConfig, save_text_adherence
from rewards.training import Progress, fit
from rewards.words import WordTable
from world.attributes import ATTRIBUTES, Attributes
from world.captions import all_words, caption, prompt
from world.corpus import Corpus

WORD_DROPOUT, WORD_NOISE = 0.1, 0.03
PROTOTYPE_WEIGHT = 3.0  # beside contrast: what it takes for tempo and articulation to be heard
HEARD_SEVERITY = 0.6  # a worse damaged clip teaches a caption nothing


@dataclass
class TrainSettings:
    corpus: str = "build/world"
    codec: str = "build/tiny/codec"
    out: str = ""  # empty: build/tiny/NAME
    steps: int = 1200
    batch_size: int = 96
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 1


def train_text_adherence(
    corpus: Corpus,
    codec: Codec | None,
    out_dir: str | Path,
    steps: int = 1200,
    seed: int = 0,
    batch_size: int = 96,
    learning_rate: float = 2e-3,
    progress: Progress = print,
) -> None:
    """Two towers on the train split, captions written anew for each batch; writes a checkpoint to `out_dir`."""
    torch.manual_seed(seed)
    bank = training_bank(corpus, codec, "train", progress).of_clips()
    bank = bank.take((bank.severity <= HEARD_SEVERITY).nonzero()[:, 0])
    config = TwoTowersConfig(vocabulary=tuple(WordTable.of([" ".join(all_words())]).vocabulary))
    towers = TwoTowers(config)
    prototypes = Prototypes(config.embedding, {name: len(values) for name, values in ATTRIBUTES.items()})
    attributes, rng = corpus.split("train").attributes, np.random.default_rng(seed)

    def words_for(clips: list[int]) -> list[str]:
        return [(prompt if rng.random() < 0.5 else caption)(attributes[clip], rng) for clip in clips]

    losses = contrast(towers, batches(bank, batch_size, steps, rng), words_for, attributes, rng, prototypes)
    fit("text_adherence", nn.ModuleList([towers, prototypes]), losses, steps, learning_rate, progress)
    save_text_adherence(out_dir, towers, config)
    write_training(out_dir, declared("train", bank, codec, steps, batch_size, seed))


def train_quality(
    corpus: Corpus,
    codec: Codec | None,
    out_dir: str | Path,
    steps: int = 1200,
    seed: int = 0,
    batch_size: int = 96,
    learning_rate: float = 2e-3,
    progress: Progress = print,
) -> None:
    """Regression of the opinion score on the train split; writes a checkpoint to `out_dir`."""
    torch.manual_seed(seed + 1)
    bank = training_bank(corpus, codec, "train", progress)
    config = QualityConfig()
    net = QualityNet(config)
    losses = _regression(net, bank, steps, batch_size, np.random.default_rng(seed + 1))
    fit("quality", net, losses, steps, learning_rate, progress)
    save_quality(out_dir, net, config)
    write_training(out_dir, declared("train", bank, codec, steps, batch_size, seed))


def training_bank(corpus: Corpus, codec: Codec | None, split: str, progress: Progress, seed: int = 0) -> Bank:
    """The bank of a split, kept beside the corpus until the codec changes."""
    version = codec.version if codec is not None else "no codec"
    clips = corpus.split(split)
    key = f"{version} {len(clips)} {seed}"
    path = Path(corpus.folder) / f"bank_{split}.npz"
    return saved_bank(path, lambda: build_bank(clips, codec, seed, progress=progress), key)


class Towers(Protocol):
    """Two towers in training."""

    words: WordTable
    log_scale: nn.Parameter

    def embed_audio(self, log_mel: Tensor) -> Tensor: ...

    def embed_text(self, ids: Tensor) -> Tensor: ...


def contrast(
    towers: Towers,
    drawn: Iterable[tuple[Tensor, Bank]],
    words_for: Callable[[list[int]], list[str]],
    attributes: list[Attributes],
    rng: np.random.Generator,
    prototypes: Prototypes | None = None,
) -> Iterator[Callable[[], Tensor]]:
    """A loss for each batch of a bank. `words_for` gives the captions of clips, `attributes` the truth by clip."""
    for log_mel, rows in drawn:
        clips = rows.clip.tolist()
        captions, truths = words_for(clips), [attributes[clip] for clip in clips]
        fits, ids = fits_matrix(captions, truths), spoiled(towers.words.encode(captions), towers.words, rng)
        heard, said = attribute_labels(truths), attribute_labels([named_attributes(text) for text in captions])

        def loss(
            log_mel: Tensor = log_mel,
            ids: Tensor = ids,
            fits: Tensor = fits,
            heard: dict[str, Tensor] = heard,
            said: dict[str, Tensor] = said,
        ) -> Tensor:
            audio, text = towers.embed_audio(log_mel), towers.embed_text(ids)
            total = contrastive_loss(audio, text, towers.log_scale.clamp(max=3.4).exp(), fits)
            if prototypes is not None:
                total = total + PROTOTYPE_WEIGHT * (prototypes.loss(audio, heard) + prototypes.loss(text, said))
            return total

        yield loss


def attribute_labels(attributes: list[Attributes]) -> dict[str, Tensor]:
    """By attribute [B] int64: the index of its value, UNSAID where it is missing."""
    return {
        name: torch.tensor([values.index(each[name]) if name in each else UNSAID for each in attributes])
        for name, values in ATTRIBUTES.items()
    }


def _regression(
    net: QualityNet, bank: Bank, steps: int, batch_size: int, rng: np.random.Generator
) -> Iterator[Callable[[], Tensor]]:
    for log_mel, rows in batches(bank, batch_size, steps, rng):
        target = mos_of_severity(rows.severity)

        def loss(log_mel: Tensor = log_mel, target: Tensor = target) -> Tensor:
            return F.smooth_l1_loss(net(log_mel), target, beta=0.3)

        yield loss


def fits_matrix(captions: list[str], truths: list[Attributes]) -> Tensor:
    """[i, j]: whether clip i fulfils all that caption j names. -> [B, B] bool."""
    named = [named_attributes(text) for text in captions]
    return torch.tensor([[compatible(n, truth) for n in named] for truth in truths])


def spoiled(ids: Tensor, words: WordTable, rng: np.random.Generator) -> Tensor:
    """Drops some words and turns a few into unknown ones, as strangers write. [B, L] -> [B, L]."""
    chance = torch.as_tensor(rng.random(tuple(ids.shape)))
    unknown = torch.as_tensor(rng.integers(words.size - words.buckets, words.size, tuple(ids.shape)))
    noisy = torch.where((chance > 1 - WORD_NOISE) & (ids != 0), unknown, ids)
    return torch.where(chance < WORD_DROPOUT, torch.zeros_like(ids), noisy)


def declared(split: str, bank: Bank, codec: Codec | None, steps: int, batch_size: int, seed: int) -> dict[str, Any]:
    """training.json of a model that learnt from a bank."""
    views = {view: int((bank.view == index).sum()) for index, view in enumerate(VIEWS)}
    return {
        "split": split,
        "clips": len(bank.clip[bank.clip != NO_CLIP].unique()),
        "views": ", ".join(f"{count} {view}" for view, count in views.items() if count),
        "codec": codec.version if codec is not None else "none",
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
    }


TRAINERS: dict[str, Callable[..., None]] = {"text_adherence": train_text_adherence, "quality": train_quality}


OF_VOTES = ("preference", "personal")  # learnt from listeners' choices, with settings of their own


def open_codec(directory: str) -> Codec | None:
    """The codec of a directory; None for "none"."""
    if directory == "none":
        return None
    from codec.checkpoint import load_codec

    return load_codec(directory)


def main(argv: list[str]) -> int:
    """Exit status 0, or 2 with one line for input that cannot be used."""
    if argv and argv[0] in OF_VOTES:
        from rewards.preference_command import main as train_of_votes

        return train_of_votes(argv[0], argv[1:])
    return exit_status_of(lambda: _train(argv))


def _train(argv: list[str]) -> None:
    if not argv or argv[0] not in TRAINERS:
        allowed = ", ".join((*TRAINERS, *OF_VOTES))
        raise UserError(f"model: got {argv[0] if argv else 'nothing'!r}, allowed {allowed}")
    s = parse_settings(argv[1:], TrainSettings())
    torch.set_num_threads(s.threads)
    out, corpus, codec = s.out or f"build/tiny/{argv[0]}", Corpus.open(s.corpus), open_codec(s.codec)
    TRAINERS[argv[0]](corpus, codec, out, s.steps, s.seed, s.batch_size, s.learning_rate, _say)
    _say(f"{argv[0]}: written to {out}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
