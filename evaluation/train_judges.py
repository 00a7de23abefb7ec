"""Trains the held-out judges on the judge split.

python -m evaluation.train_judges [corpus=build/world] [codec=build/tiny/codec] [out=build/tiny/judges]
                                  [steps=N] [batch_size=N] [learning_rate=X] [seed=N] [threads=N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from codec.port import Codec
from configs.command_line import exit_status_of, parse_settings
from evaluation.judges import SECOND, SecondTowers, save_second_text_audio
from evaluation.probes import AttributeProbe, save_attribute_judge
from evaluation.signal_measures import SpectrumReference, TempoReference, save_measure
from rewards.bank import VIEWS, Bank, batches
from rewards.checkpoint import write_training
from rewards.train import contrast, declared, open_codec, training_bank
from rewards.training import Progress, fit
from rewards.words import WordTable
from world.attributes import ATTRIBUTES
from world.corpus import Corpus, CorpusSplit

HEARD_SEVERITY = 0.5
JUDGE_SEED = 9000  # far from the seeds of the rewards, the codec and the policy


@dataclass
class JudgeSettings:
    corpus: str = "build/world"
    codec: str = "build/tiny/codec"
    out: str = "build/tiny/judges"
    steps: int = 900
    batch_size: int = 96
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 1


def train_judges(
    corpus: Corpus,
    codec: Codec | None,
    out_dir: str | Path,
    steps: int = 900,
    seed: int = 0,
    batch_size: int = 96,
    learning_rate: float = 2e-3,
    progress: Progress = print,
) -> None:
    """All four judges, written to out_dir/NAME/. Reads nothing but the judge split."""
    split, out = corpus.split("judge"), Path(out_dir)
    bank = training_bank(corpus, codec, "judge", progress, JUDGE_SEED + seed).of_clips()
    bank = bank.take((bank.severity <= HEARD_SEVERITY).nonzero()[:, 0])
    torch.manual_seed(JUDGE_SEED + seed)
    towers = SecondTowers(WordTable.of([*split.captions, *split.table["caption_alt"].to_pylist()]).vocabulary)
    rng, wordings = np.random.default_rng(JUDGE_SEED + seed), (split.captions, split.table["caption_alt"].to_pylist())

    def words_for(clips: list[int]) -> list[str]:
        return [wordings[int(rng.integers(2))][clip] for clip in clips]

    losses = contrast(towers, batches(bank, batch_size, steps, rng), words_for, split.attributes, rng)
    fit("second_text_audio", towers, losses, steps, learning_rate, progress)
    save_second_text_audio(out / SECOND, towers)
    entries = declared("judge", bank, codec, steps, batch_size, JUDGE_SEED + seed)
    write_training(out / SECOND, entries)
    probe = AttributeProbe()
    reading = _classification(probe, bank, split, steps, batch_size, np.random.default_rng(JUDGE_SEED + seed + 1))
    fit("attributes", probe, reading, steps, learning_rate, progress)
    save_attribute_judge(out / "attributes", probe)
    write_training(out / "attributes", entries)
    measure_references(bank, split, out)
    progress(f"judges: written to {out}")


def measure_references(bank: Bank, split: CorpusSplit, out: Path) -> None:
    """The averages over clean clips that the signal measures compare with."""
    clean = bank.take((bank.view == VIEWS.index("clean")).nonzero()[:, 0])
    log_mel = clean.log_mel.float().numpy()
    every = split.attributes
    attributes = [every[clip] for clip in clean.clip.tolist()]
    save_measure(out / "tempo", "tempo", TempoReference.measure(log_mel, attributes))
    save_measure(out / "spectrum", "spectrum", SpectrumReference.measure(log_mel, attributes))


def _classification(
    probe: AttributeProbe, bank: Bank, split: CorpusSplit, steps: int, batch_size: int, rng: np.random.Generator
) -> Iterator[Callable[[], Tensor]]:
    labels = {name: split.attribute_labels(name) for name in ATTRIBUTES}
    for log_mel, rows in batches(bank, batch_size, steps, rng):
        targets = {name: every[rows.clip] for name, every in labels.items()}

        def loss(log_mel: Tensor = log_mel, targets: dict[str, Tensor] = targets) -> Tensor:
            logits = probe(log_mel)
            return torch.stack([F.cross_entropy(logits[n], t, label_smoothing=0.05) for n, t in targets.items()]).mean()

        yield loss


def main(argv: list[str]) -> int:
    """Exit status 0, or 2 with one line for input that cannot be used."""
    return exit_status_of(lambda: _train(parse_settings(argv, JudgeSettings())))


def _train(s: JudgeSettings) -> None:
    torch.set_num_threads(s.threads)
    corpus, codec = Corpus.open(s.corpus), open_codec(s.codec)
    train_judges(
        corpus, codec, s.out, s.steps, s.seed, s.batch_size, s.learning_rate, lambda text: print(text, flush=True)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
