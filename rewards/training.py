"""The training loop that reward models and judges share: AdamW, warm-up and cosine, progress, one thread of work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Progress = Callable[[str], None]


def rate_at(step: int, steps: int, peak: float, warmup: int = 30) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def fit(
    name: str,
    module: nn.Module,
    losses: Iterable[Callable[[], Tensor]],
    steps: int,
    learning_rate: float,
    progress: Progress = print,
    every: int = 100,
) -> None:
    """One update for each loss of `losses`; leaves the module in evaluation mode.

    A loss is a function, so that it is computed after the update before it. A non-finite loss raises
    FloatingPointError before it reaches the weights.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    module.train()
    started, seen = time.monotonic(), []
    for step, loss_of in enumerate(losses):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps, learning_rate)
        loss = loss_of()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: loss {loss.item()} at step {step}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        seen.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            left_s = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
            recent = seen[-every:]
            progress(f"{name}: step {step + 1}/{steps}, loss {sum(recent) / len(recent):.3f}, {left_s:.0f} s left")
    module.eval()
