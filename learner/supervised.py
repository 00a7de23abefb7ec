"""Supervised pretraining of a base policy: the likelihood of token sequences under their captions.

    loss = mean over all cells of -log p(code_{t,k} | text, frames before t, streams before k)

Captions are dropped now and then, so that the null condition is learnt and guidance is possible (arXiv 2207.12598).
Each step's material follows from the seed and the step alone, so a stopped training goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cluster.errors import RunFailed, UserError
from policy.checkpoint import save_policy
from policy.tiny_musiclm import TinyMusicLM

Say = Callable[[str], None]
STATE = "training.pt"
CURVE = "curve.jsonl"  # bits a token, by step


@dataclass(frozen=True)
class SupervisedSettings:
    """How to train. Rates rise over the warm-up and fall to zero along a cosine."""

    steps: int = 2400
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    caption_dropout: float = 0.1
    dropout: float = 0.05
    crop_least: int = 50  # frames; clips are cut to a length drawn for each batch
    crop_most: int = 100
    seed: int = 0
    report_every: int = 25
    checkpoint_every: int = 100


@dataclass(frozen=True)
class Material:
    """Token sequences and what is said of them: codes uint8 or wider [n, K, T], n captions."""

    codes: np.ndarray
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.codes)


class SupervisedTraining:
    """One training of `policy`, in place; `directory` holds its state and, at the end, the exported policy."""

    def __init__(
        self,
        policy: TinyMusicLM,
        train: Material,
        valid: Material,
        directory: str | Path,
        settings: SupervisedSettings,
        say: Say = print,
    ) -> None:
        check_material(policy, train, "train")
        check_material(policy, valid, "valid")
        self.policy, self.train, self.valid, self.settings, self.say = policy, train, valid, settings, say
        self.directory = Path(directory)
        self.text = policy.encode_text(list(train.captions))
        self.optimiser = torch.optim.AdamW(parameter_groups(policy, settings.weight_decay), betas=(0.9, 0.95))
        self.step = 0
        self.seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Trains to the last step, exports to `directory` in float32 and returns what training.json holds."""
        self._resume()
        losses: list[float] = []
        while self.step < self.settings.steps:
            started = time.monotonic()
            losses.append(self.update())
            self.seconds += time.monotonic() - started
            if self.step % self.settings.report_every == 0 or self.step == self.settings.steps:
                self._report(losses)
                losses = []
            if self.step % self.settings.checkpoint_every == 0:
                self._save()
        self.policy.set_dropout(0.0)
        self.policy.eval()
        return self._export()

    def update(self) -> float:
        """One step of the optimiser. -> loss in bits a token. Raises RunFailed where the loss is not finite."""
        self.policy.train()
        self.policy.set_dropout(self.settings.dropout)
        torch.manual_seed(self.settings.seed + 1_000_003 * self.step)  # dropout of a step depends on its number alone
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        codes, rows, dropped = batch(self.train.codes, self.step, self.settings)
        text = torch.where(dropped[:, None], self.policy.null_of(self.text[rows]), self.text[rows])
        loss = cross_entropy(self.policy(codes, text), codes)
        if not torch.isfinite(loss):
            raise RunFailed(f"pretraining: loss {loss.item()} at step {self.step}; a lower learning_rate may help")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item() / math.log(2)

    def _report(self, losses: list[float]) -> None:
        left_min = self.seconds / self.step * (self.settings.steps - self.step) / 60
        text = f"policy: step {self.step}/{self.settings.steps}, {np.mean(losses):.3f} bits/token"
        if self.step % (8 * self.settings.report_every) == 0 or self.step == self.settings.steps:
            count = min(len(self.valid), 256)
            bits = bits_per_token(self.policy, self.valid.codes[:count], self.valid.captions[:count])
            text += f", valid {bits.mean():.3f}"
            self._note(train=float(np.mean(losses)), valid=float(bits.mean()))
        else:
            self._note(train=float(np.mean(losses)))
        self.say(f"{text}, {left_min:.1f} min left")

    def _note(self, **bits: float) -> None:
        """One line of curve.jsonl; lines of steps that are made again after a stop come twice, the later one counts."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / CURVE).open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": self.step, **{name: round(value, 5) for name, value in bits.items()}}) + "\n"
            )

    def _export(self) -> dict[str, Any]:
        facts = {**asdict(self.settings), "minutes": round(self.seconds / 60, 1), "sequences": len(self.train)}
        save_policy(self.policy, self.directory)
        (self.directory / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (self.directory / STATE).unlink(missing_ok=True)
        return facts

    def _save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        state = {"policy": self.policy.state_dict(), "optimiser": self.optimiser.state_dict()}
        progress = {"step": self.step, "seconds": self.seconds, "settings": asdict(self.settings)}
        partial = self.directory / f"{STATE}.partial"
        torch.save({**state, **progress}, partial)
        partial.rename(self.directory / STATE)

    def _resume(self) -> None:
        path = self.directory / STATE
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise UserError(f"policy training: got {path} of other settings, allowed the same ones or a new folder")
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.say(f"policy: goes on from step {self.step}")


def batch(codes: np.ndarray, step: int, settings: SupervisedSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The material of a step -> codes [B, K, t] int64, their rows [B], which captions are dropped [B] bool.

    Rows come without replacement within an epoch; all rows of a batch are cut to one length, every second one (by
    chance) at the beginning of its clip, the others anywhere.
    """
    rng = np.random.default_rng((settings.seed, 31, step))
    places = step * settings.batch_size + np.arange(settings.batch_size)
    rows = np.array(
        [epoch_order(len(codes), settings.seed, at // len(codes))[at % len(codes)] for at in places.tolist()]
    )
    most = min(settings.crop_most, codes.shape[2])
    length = int(rng.integers(min(settings.crop_least, most), most + 1))
    first = rng.integers(0, codes.shape[2] - length + 1, size=len(rows)) * (rng.random(len(rows)) < 0.5)
    cut = np.stack([codes[row, :, start : start + length] for row, start in zip(rows, first, strict=True)])
    dropped = rng.random(len(rows)) < settings.caption_dropout
    return torch.from_numpy(cut.astype(np.int64)), torch.from_numpy(rows), torch.from_numpy(dropped)


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, shuffled."""
    return np.random.default_rng((seed, 32, epoch)).permutation(count)


def cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """logits [B, K, T, V], codes [B, K, T] -> mean nats a token."""
    return F.cross_entropy(logits.flatten(0, 2), codes.flatten())


def bits_per_token(policy: TinyMusicLM, codes: np.ndarray, captions: Sequence[str], rows: int = 64) -> np.ndarray:
    """-> [K], the mean of -log2 p of each stream's tokens, captions as given. The policy is left in evaluation mode."""
    policy.eval()
    sums = np.zeros(codes.shape[1])
    with torch.inference_mode():
        for start in range(0, len(codes), rows):
            part = torch.from_numpy(codes[start : start + rows].astype(np.int64))
            logits = policy(part, policy.encode_text(list(captions[start : start + rows])))
            cells = F.cross_entropy(logits.flatten(0, 2), part.flatten(), reduction="none").view(part.shape)
            sums += cells.sum((0, 2)).double().numpy()
    return sums / (codes.shape[0] * codes.shape[2]) / math.log(2)


def learning_rate(step: int, settings: SupervisedSettings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def parameter_groups(policy: TinyMusicLM, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; embeddings, norms and other vectors do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in policy.named_parameters():
        (free if parameter.ndim < 2 or "embed" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def check_material(policy: TinyMusicLM, material: Material, name: str) -> None:
    """Raises UserError where the tokens do not fit the policy's streams."""
    sizes = [stream.size for stream in policy.streams]
    if not len(material) or material.codes.ndim != 3 or material.codes.shape[1] != len(sizes):
        raise UserError(
            f"data: got {name} codes of shape {list(material.codes.shape)}, allowed [n, {len(sizes)}, frames]"
        )
    if len(material.captions) != len(material):
        raise UserError(f"data: got {len(material.captions)} captions for {len(material)} {name} sequences")
    most = [int(stream.max()) for stream in material.codes.transpose(1, 0, 2)]
    if any(top >= size for top, size in zip(most, sizes, strict=True)):
        raise UserError(f"data: got {name} tokens up to {most}, allowed below {sizes} (the policy's streams)")
