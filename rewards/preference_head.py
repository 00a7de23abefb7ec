"""The head before the trunk: fitted to the pooled features of some thousand votes while the trunk stays as it is.

A head that starts from nothing first pulls the trunk about at random, and spends votes on finding out what the trunk
knows already. One look at the clips is enough for that: their features are kept, and the fit takes seconds.
Source: linear probing before fine-tuning, Kumar et al. 2022 (arXiv 2202.10054), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewards.preference_loss import vote_losses
from rewards.preference_net import PreferenceNet
from rewards.training import rate_at

if TYPE_CHECKING:
    from rewards.preference_training import Votes

VOTES, EPOCHS, BATCH, LEARNING_RATE = 8000, 4, 64, 1e-3
READ_AT_ONCE = 64


def fit_head(net: PreferenceNet, votes: Votes, ties: str, crop_frames: int, seed: int) -> None:
    """Sets the head, side, log_nu and the scaling of the features of `net` from at most VOTES of the votes."""
    rng = np.random.default_rng([seed, 1])
    votes = votes.take(np.sort(rng.permutation(len(votes))[:VOTES]))
    features = read_features(net, votes, crop_frames, rng)
    fit_to_features(net, features, votes.choices, votes.weights, ties, seed, rng)


def fit_to_features(
    net: PreferenceNet,
    features: Tensor,
    choices: np.ndarray,
    weights: np.ndarray,
    ties: str,
    seed: int,
    rng: np.random.Generator,
) -> None:
    """features [P, 2, D], choices [P], weights [P] -> sets head, side, log_nu and the scaling of the features."""
    net.scale_features(features.flatten(0, 1))
    chosen, weighs = (torch.from_numpy(part).to(features.device) for part in (choices, weights))
    fitted = [*net.head.parameters(), net.side, net.log_nu]
    optimiser = torch.optim.AdamW(fitted, lr=LEARNING_RATE, weight_decay=0.05)
    batches = max(1, len(choices) // BATCH)
    net.head.train()
    torch.manual_seed(seed)
    for step in range(EPOCHS * batches):
        if step % batches == 0:
            order = torch.from_numpy(rng.permutation(len(choices))).to(features.device)
        rows = order[step % batches * BATCH :][:BATCH]
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, EPOCHS * batches, LEARNING_RATE, 30)
        scores = net.score_features(features[rows])
        losses = vote_losses(scores[:, 0] - scores[:, 1] + net.side, net.log_nu, chosen[rows], ties)
        optimiser.zero_grad(set_to_none=True)
        (losses * weighs[rows]).mean().backward()
        optimiser.step()


@torch.no_grad()
def read_features(net: PreferenceNet, votes: Votes, crop_frames: int, rng: np.random.Generator) -> Tensor:
    """[P, 2, D]: the pooled features of both clips, on crops as the training takes them."""
    from rewards.preference_training import cropped

    net.eval()
    device, found = net.side.device, []
    codes, frames = cropped(votes.codes, votes.frames, crop_frames, rng)
    for side in (0, 1):
        parts = []
        for first in range(0, len(votes), READ_AT_ONCE):
            rows = slice(first, first + READ_AT_ONCE)
            arrays = codes[rows, side].astype(np.int64), frames[rows, side], votes.text[rows]
            parts.append(net.features(*(torch.from_numpy(array).to(device) for array in arrays)))
        found.append(torch.cat(parts))
    return torch.stack(found, dim=1)
