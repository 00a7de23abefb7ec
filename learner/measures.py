"""What the objective asks of every cell, without ever holding the distributions of all cells.

The logits of a clip of 30 s of MusicGen are 49 MB, and between them and the loss lie some fifteen arrays of their size.
Where a policy has a readout (policy.port.PolicyOfStates), they are made for a few frames at a time, of policy and
anchor together, and of each only three numbers a cell are kept. The backward pass makes them again, one part at a time.
Source: activation checkpointing, arXiv 1604.06174, section 4, of the heads and of what follows them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from learner import objective
from learner.memory import PART_NUMBERS
from policy.log_probs import distribution_of_logits, gather
from policy.port import Readout, SamplingSettings

Measures = tuple[Tensor, Tensor, Tensor]  # [B, K, T] each: log pi of the code, KL to the anchor, entropy (no gradient)


def measure(log_pi: Tensor, log_ref: Tensor, codes: Tensor) -> Measures:
    """Of the log-distributions [B, K, T, V] of policy and anchor, and the codes [B, K, T]."""
    return gather(log_pi, codes), objective.full_kl(log_pi, log_ref), objective.entropy(log_pi.detach())


def measure_in_parts(
    readouts: tuple[Readout, Readout],
    states: tuple[Tensor, Tensor],
    codes: Tensor,
    settings: SamplingSettings,
    entries: int,
    numbers: int = 0,
) -> Measures:
    """readouts, states [B, S, D]: of policy and anchor, guided; entries: V; numbers: logits of a part at most; 0:
    PART_NUMBERS."""

    def part(start: int, stop: int) -> Measures:
        log_pi, log_ref = (
            distribution_of_logits(readout.logits(each, start, stop), None, settings)
            for readout, each in zip(readouts, states, strict=True)
        )
        return measure(log_pi, log_ref, codes[..., start:stop])

    rows, books, frames = codes.shape
    most = max(1, (numbers or PART_NUMBERS) // (rows * books * entries))
    places = [(start, min(start + most, frames)) for start in range(0, frames, most)]
    found = [part(*place) if len(places) == 1 else _made_again(part, *place) for place in places]
    log_pi, kl, entropy = (torch.cat(each, dim=2) for each in zip(*found, strict=True))
    return log_pi, kl, entropy


def _made_again(part: Callable[[int, int], Measures], start: int, stop: int) -> Measures:
    if not torch.is_grad_enabled():
        return part(start, stop)
    return checkpoint(part, start, stop, use_reentrant=False, preserve_rng_state=False)
