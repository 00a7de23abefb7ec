"""Fitting a PreferenceNet to votes: plain torch, the same whether one process does it or several Ray Train workers.

Nothing here remembers a random state: the order of the votes, their crops and the dropout of a step follow from seed,
step and rank. So a training that goes on from a checkpoint ends where the uninterrupted one does, bit for bit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rewards.preference_loss import vote_losses
from rewards.preference_net import PreferenceNet
from rewards.preference_pairs import NEITHER, TIE, A, B, PairSet
from rewards.preference_settings import PreferenceSettings
from rewards.training import rate_at

EVALUATED_AT_ONCE = 64
MOST_VALIDATED = 1000  # votes looked at to decide when to stop
WARMUP_STEPS = 30


@dataclass(frozen=True)
class Votes:
    """What the loss reads of P votes. Arrays, so that workers share one copy."""

    codes: np.ndarray  # [P, 2, K, T] uint16: a, b
    frames: np.ndarray  # [P, 2] int64
    text: np.ndarray  # [P, L] int64
    choices: np.ndarray  # [P] int64: A, B, TIE
    weights: np.ndarray  # [P] float32, mean 1

    def __len__(self) -> int:
        return len(self.choices)

    def take(self, rows: np.ndarray) -> Votes:
        return Votes(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


def votes_of(pairs: PairSet, net: PreferenceNet, settings: PreferenceSettings) -> Votes:
    """The votes that teach something under `settings`, as arrays."""
    choices = pairs.choices.astype(np.int64)
    if settings.neither == "tie":
        choices = np.where(choices == NEITHER, TIE, choices)
    taught = (choices != NEITHER) & ((choices != TIE) | (settings.ties != "drop"))
    kept = pairs.take(taught)
    return Votes(
        codes=np.stack([kept.codes_a, kept.codes_b], axis=1),
        frames=np.stack([kept.frames_a, kept.frames_b], axis=1),
        text=net.encode_text(list(kept.prompts)).numpy(),
        choices=choices[taught],
        weights=listener_weights(kept.listeners, settings.listener_power),
    )


def listener_weights(listeners: np.ndarray, power: float) -> np.ndarray:
    """[P] float32 of mean 1: (votes of the vote's listener) to the power -power."""
    _, member, counts = np.unique(listeners.astype(str), return_inverse=True, return_counts=True)
    weights = counts[member].astype(np.float64) ** -power
    return (weights / weights.mean()).astype(np.float32) if len(weights) else weights.astype(np.float32)


@torch.no_grad()
def start_from_shares(net: PreferenceNet, choices: np.ndarray) -> None:
    """Sets side and log_nu to what the shares of the votes say while all clips score alike (Davidson and Beaver)."""
    first, second, tied = (float((choices == choice).sum()) + 0.5 for choice in (A, B, TIE))
    net.side.fill_(float(np.log(first / second)))
    net.log_nu.fill_(float(np.log(tied / np.sqrt(first * second))))


class VoteLoss(nn.Module):
    """A batch of votes -> its loss. A module, so that data-parallel wrappers see every parameter."""

    def __init__(self, net: PreferenceNet, ties: str) -> None:
        super().__init__()
        self.net, self.ties = net, ties

    def forward(self, codes: Tensor, frames: Tensor, text: Tensor, choices: Tensor) -> Tensor:
        """codes [B, 2, K, T], frames [B, 2], text [B, L], choices [B] -> losses [B], nats."""
        scores = self.net(codes.flatten(0, 1), frames.flatten(), text.repeat_interleave(2, dim=0)).view(-1, 2)
        return vote_losses(scores[:, 0] - scores[:, 1] + self.net.side, self.net.log_nu, choices, self.ties)


class PreferenceTrainer:
    """Steps, looks at the validation votes, remembers the best weights, and knows when to stop."""

    def __init__(
        self,
        net: PreferenceNet,
        train: Votes,
        valid: Votes,
        settings: PreferenceSettings,
        crop_frames: int = 0,
        rank: int = 0,
        workers: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        self.net, self.train, self.settings = net, train, settings
        self.valid = valid.take(np.linspace(0, len(valid) - 1, min(len(valid), MOST_VALIDATED)).astype(np.int64))
        self.crop_frames, self.rank, self.workers = crop_frames, rank, workers
        self.device = next(net.parameters()).device
        self.loss = VoteLoss(net, settings.ties)
        self.parallel = wrap(self.loss)
        self.steps = settings.steps or max(1, round(settings.epochs * len(train) / settings.batch_size))
        self.optimiser = _optimiser(net, settings)
        self.step, self.best_step, self.best_loss = 0, -1, float("inf")
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self._recent: list[float] = []
        self._started, self._first = time.monotonic(), 0

    @property
    def finished(self) -> bool:
        """All steps done, or no better look for `patience` looks."""
        looks = len(self.history) - 1 - self.best_step
        return self.step >= self.steps or (0 < self.settings.patience <= looks)

    def advance(self, until: int) -> list[str]:
        """Trains up to step `until` or the end -> lines of progress."""
        lines = []
        while self.step < until and not self.finished:
            self._update()
            if self.step % self.settings.eval_every == 0 or self.step == self.steps:
                lines.append(self._look())
        return lines

    def state(self) -> dict[str, Any]:
        """Everything that going on needs; tensors are copies on the CPU."""
        return {
            "step": self.step,
            "net": _copied(self.net.state_dict()),
            "best": self.best,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "history": self.history,
            "recent": self._recent,
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best, self.history = state["step"], state["best"], list(state["history"])
        self.best_step, self.best_loss, self._recent = state["best_step"], state["best_loss"], list(state["recent"])
        self._started, self._first = time.monotonic(), self.step

    def _update(self) -> None:
        rng = np.random.default_rng([self.settings.seed, self.step, self.rank])
        torch.manual_seed(int(rng.integers(2**62)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, self.steps, group["peak"], WARMUP_STEPS)
        self.net.train()
        votes = self.train.take(self._rows())
        weights = torch.from_numpy(votes.weights).to(self.device)
        loss = (self.parallel(*self._tensors(votes, rng)) * weights).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"preference: loss {loss.item()} at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._recent.append(loss.item())

    def _rows(self) -> np.ndarray:
        """This rank's share of the step's batch: place p of the endless list is permutation(seed, p // P)[p % P]."""
        size, total = self.settings.batch_size, len(self.train)
        places = np.arange(self.step * size, (self.step + 1) * size)
        orders = {
            e: np.random.default_rng([self.settings.seed, e]).permutation(total)
            for e in set((places // total).tolist())
        }
        rows = np.array([orders[place // total][place % total] for place in places.tolist()])
        return rows[self.rank :: self.workers]

    def _look(self) -> str:
        valid, train = self._validate(), float(np.mean(self._recent))
        self._recent = []
        self.history.append({"step": self.step, "train_loss": train, "valid_loss": valid})
        if valid < self.best_loss:
            self.best_loss, self.best_step = valid, len(self.history) - 1
            self.best = _copied(self.net.state_dict())
        left_s = (time.monotonic() - self._started) / (self.step - self._first) * (self.steps - self.step)
        best = " (best)" if self.best_step == len(self.history) - 1 else ""
        return (
            f"preference: step {self.step}/{self.steps}, loss {train:.4f}, validation {valid:.4f}{best}, "
            f"{left_s:.0f} s left at most"
        )

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss over the validation votes, shared between the workers; crops are taken at the start."""
        self.net.eval()
        rows = np.arange(len(self.valid))[self.rank :: self.workers]
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, len(rows), EVALUATED_AT_ONCE):
            losses = self.loss(*self._tensors(self.valid.take(rows[first : first + EVALUATED_AT_ONCE])))
            total += torch.tensor([float(losses.sum()), len(losses)], dtype=torch.float64)
        if self.workers > 1:
            total = total.to(self.device)
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])

    def _tensors(self, votes: Votes, rng: np.random.Generator | None = None) -> tuple[Tensor, ...]:
        """What VoteLoss takes; crops at random places with `rng`, at the start without."""
        codes, frames = cropped(votes.codes, votes.frames, self.crop_frames, rng)
        arrays = (codes.astype(np.int64), frames, votes.text, votes.choices)
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)


def cropped(
    codes: np.ndarray, frames: np.ndarray, crop_frames: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """codes [B, 2, K, T], frames [B, 2] -> parts of at most crop_frames (0: whole), T no longer than the longest.

    Each clip is cut at a place of its own, uniform with `rng`, else at its start.
    """
    if not crop_frames:
        return codes[..., : int(frames.max())], frames
    room = np.maximum(frames - crop_frames, 0)
    starts = rng.integers(0, room + 1) if rng is not None else np.zeros_like(room)
    length = min(crop_frames, codes.shape[-1])
    places = np.minimum(starts[..., None] + np.arange(length), codes.shape[-1] - 1)  # [B, 2, T']
    cut = np.take_along_axis(codes, np.broadcast_to(places[:, :, None], (*codes.shape[:3], length)), axis=3)
    return cut, np.minimum(frames, crop_frames)


def _optimiser(net: PreferenceNet, settings: PreferenceSettings) -> torch.optim.AdamW:
    """The trunk learns more slowly than what starts from nothing; gains, biases and single numbers do not decay."""
    trunk = {id(parameter) for parameter in net.trunk.parameters()}
    groups = []
    for of_trunk, peak in ((True, settings.learning_rate), (False, settings.head_learning_rate)):
        mine = [p for p in net.parameters() if (id(p) in trunk) == of_trunk]
        for decays in (True, False):
            chosen = [p for p in mine if (p.ndim > 1) == decays]
            groups.append({"params": chosen, "peak": peak, "weight_decay": settings.weight_decay if decays else 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
