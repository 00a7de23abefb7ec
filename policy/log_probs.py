"""The one definition of the distribution that is sampled, and so of every log-probability in a run.

    logits = null + guidance * (conditioned - null),      log pi = log_softmax(logits / temperature)

Source: temperature, MusicRL section 4.2; guidance, arXiv 2209.15352 section 3.2 (classifier-free, on logits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from policy.port import Policy, SamplingSettings


def log_distribution(
    policy: Policy,
    codes: Tensor,
    text: Tensor,
    settings: SamplingSettings,
    show: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """Teacher-forced log-distribution of every cell: codes [B, K, T], text [B, L] -> [B, K, T, V].

    Entries that a stream does not have are -inf. The pass under the null condition is made only where guidance asks.
    show: gets the states of the pass under the text.
    """
    conditioned = policy(codes, text, show=show)
    null = None
    if settings.guidance_scale != 1.0:
        null = policy(codes, policy.null_of(text))
    return distribution_of_logits(conditioned, null, settings)


def distribution_of_logits(conditioned: Tensor, null: Tensor | None, settings: SamplingSettings) -> Tensor:
    """[..., V] logits under the text and under the null condition (None: no guidance) -> [..., V] log-distribution."""
    logits = conditioned
    if null is not None:
        # -inf minus -inf is nan: entries outside of a stream keep their -inf
        guided = null + settings.guidance_scale * (conditioned - null)
        logits = torch.where(conditioned.isneginf(), conditioned, guided)
    return torch.log_softmax(logits / settings.temperature, dim=-1)


def gather(log_dist: Tensor, codes: Tensor) -> Tensor:
    """Log-probability of the codes: [B, K, T, V], [B, K, T] -> [B, K, T]."""
    return log_dist.gather(-1, codes.long().unsqueeze(-1)).squeeze(-1)
