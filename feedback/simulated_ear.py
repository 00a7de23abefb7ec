"""What a simulated listener makes of a clip's sound and of the prompt: a small network of its own.

Trained on the judge split with a seed of its own, so that neither a reward nor a held-out judge shares its weights. It
reads the world's true attributes and the severity of damage; nothing that is tuned ever sees it.

    python -m feedback.simulated_ear [corpus=build/world] [codec=build/tiny/codec] [out=build/tiny/simulated_ear]
                                     [steps=N] [batch_size=N] [learning_rate=X] [seed=N] [threads=N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.port import Codec
from configs.command_line import exit_status_of, parse_settings
from evaluation.probes import DilatedTower
from evaluation.train_judges import JUDGE_SEED
from rewards.bank import NO_CLIP, Bank, batches
from rewards.checkpoint import load_checkpoint, load_module, save_checkpoint, write_training
from rewards.prompt_attributes import named_attributes
from rewards.train import declared, open_codec, training_bank
from rewards.training import Progress, fit
from rewards.windows import mean_over_windows
from world.attributes import ATTRIBUTES
from world.corpus import Corpus, CorpusSplit

KIND = "simulated_ear"
EAR_SEED = 31_000  # far from the seeds of the rewards and of the judges


@dataclass
class EarSettings:
    corpus: str = "build/world"
    codec: str = "build/tiny/codec"
    out: str = "build/tiny/simulated_ear"
    steps: int = 900
    batch_size: int = 96
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 1


class EarNet(nn.Module):
    """Log-mel [B, 64, F] -> logits of every attribute, and of the severity of damage."""

    def __init__(self, channels: int = 64, hidden: int = 96) -> None:
        super().__init__()
        self.tower = DilatedTower(channels)
        self.hidden = nn.Sequential(nn.Linear(self.tower.width, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(values)) for name, values in ATTRIBUTES.items()})
        self.severity = nn.Linear(hidden, 1)

    def forward(self, log_mel: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """-> (attribute: logits [B, values]), severity in (0, 1) [B]."""
        features = self.hidden(self.tower(log_mel))
        return {name: read(features) for name, read in self.heads.items()}, self.severity(features)[:, 0].sigmoid()

    def readings(self, log_mel: Tensor) -> Tensor:
        """-> [B, sum of values + 1]: the attributes' distributions in the order of ATTRIBUTES, then severity."""
        logits, severity = self(log_mel)
        return torch.cat([*(logits[name].softmax(1) for name in ATTRIBUTES), severity[:, None]], dim=1)


class SimulatedEar:
    """The trained network in use. Source of the text adherence and the quality that simulated listeners hear."""

    def __init__(self, net: EarNet, version: str) -> None:
        self.net, self.version = net.eval(), version
        edges = np.cumsum([0] + [len(values) for values in ATTRIBUTES.values()])
        self._slices = {name: slice(a, b) for name, a, b in zip(ATTRIBUTES, edges, edges[1:], strict=False)}

    @classmethod
    def load(cls, directory: str | Path) -> SimulatedEar:
        """Raises UserError where the directory holds no complete ear."""
        checkpoint = load_checkpoint(directory, KIND)
        net = EarNet(checkpoint.config["channels"], checkpoint.config["hidden"])
        load_module(net, checkpoint, directory)
        return cls(net, checkpoint.version)

    def hear(self, log_mel: np.ndarray, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Adherence and quality of clips [B, 64, F], both [B] float64 in [0, 1].

        Adherence: mean probability of the attribute values that the prompt names, 0.5 where it names none.
        Quality: 1 - severity of the damage heard.
        """
        readings = mean_over_windows(log_mel, self.net.readings).astype(np.float64)
        fulfilled = [self._fulfilled(row, prompt) for row, prompt in zip(readings, prompts, strict=True)]
        return np.array(fulfilled), 1.0 - readings[:, -1]

    def _fulfilled(self, row: np.ndarray, prompt: str) -> float:
        named = named_attributes(prompt)
        chances = [row[self._slices[name]][ATTRIBUTES[name].index(value)] for name, value in named.items()]
        return float(np.mean(chances)) if chances else 0.5


def train_ear(
    corpus: Corpus,
    codec: Codec | None,
    out_dir: str | Path,
    steps: int = 900,
    seed: int = 0,
    batch_size: int = 96,
    learning_rate: float = 2e-3,
    progress: Progress = print,
) -> None:
    """Trains on the judge split and writes a checkpoint to `out_dir`."""
    bank = training_bank(corpus, codec, "judge", progress, JUDGE_SEED)
    torch.manual_seed(EAR_SEED + seed)
    net = EarNet()
    rng = np.random.default_rng(EAR_SEED + seed)
    fit(KIND, net, _losses(net, bank, corpus.split("judge"), steps, batch_size, rng), steps, learning_rate, progress)
    config = {"kind": KIND, "channels": net.tower.width // 2, "hidden": net.severity.in_features}
    save_checkpoint(out_dir, config, net.state_dict())
    write_training(out_dir, declared("judge", bank, codec, steps, batch_size, EAR_SEED + seed))


def _losses(
    net: EarNet, bank: Bank, split: CorpusSplit, steps: int, batch_size: int, rng: np.random.Generator
) -> Iterator[Callable[[], Tensor]]:
    """Cross-entropy of the attributes of clips that are still to be made out, and squared error of the severity."""
    labels = {name: split.attribute_labels(name) for name in ATTRIBUTES}
    for log_mel, rows in batches(bank, batch_size, steps, rng):
        heard = (rows.clip != NO_CLIP) & (rows.severity <= 0.6)
        targets = {name: every[rows.clip[heard]] for name, every in labels.items()}

        def loss(
            log_mel: Tensor = log_mel, rows: Bank = rows, heard: Tensor = heard, targets: dict[str, Tensor] = targets
        ) -> Tensor:
            logits, severity = net(log_mel)
            read = torch.stack([F.cross_entropy(logits[n][heard], t) for n, t in targets.items()]).mean()
            return read + 4.0 * F.mse_loss(severity, rows.severity)

        yield loss


def main(argv: list[str]) -> int:
    """Exit status 0, or 2 with one line for input that cannot be used."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    return exit_status_of(lambda: _run(argv))


def _run(argv: list[str]) -> None:
    settings = parse_settings(argv, EarSettings())
    torch.set_num_threads(settings.threads)
    corpus, codec = Corpus.open(settings.corpus), open_codec(settings.codec)
    sizes = (settings.steps, settings.seed, settings.batch_size, settings.learning_rate)
    train_ear(corpus, codec, settings.out, *sizes, lambda text: print(text, flush=True))
    print(f"simulated ear: written to {settings.out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
