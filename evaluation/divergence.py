"""How far a policy is from its reference on its own clips, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from policy.log_probs import log_distribution
from policy.port import Policy, SamplingSettings


def kl_per_clip(
    policy: Policy,
    reference: Policy,
    codes: np.ndarray,
    prompts: Sequence[str],
    sampling: SamplingSettings,
    batch_size: int = 32,
) -> np.ndarray:
    """KL(policy || reference) summed over the cells of each clip, in nats. codes [B, K, T] of the policy -> [B].

    Sum over cells (k, t) of sum_v pi(v|s) (log pi(v|s) - log pi_ref(v|s)), the whole codebook at each cell.
    Source: MusicRL section 3.2, the KL term of the objective.
    """
    found = []
    with torch.no_grad():
        for start in range(0, len(codes), batch_size):
            part = torch.from_numpy(codes[start : start + batch_size].astype(np.int64))
            texts = list(prompts[start : start + batch_size])
            own = log_distribution(policy, part, policy.encode_text(texts), sampling)
            other = log_distribution(reference, part, reference.encode_text(texts), sampling)
            gap = torch.where(own.isneginf(), 0.0, own - other)  # entries that a stream does not have count nothing
            found.append((own.exp() * gap).sum((1, 2, 3)).numpy())
    return np.concatenate(found)
