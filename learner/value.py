"""V_phi: predicts a sequence's reward from what has been generated so far, one value for the K cells of a frame.

By itself, as the paper's: a copy of the base policy's temporal trunk, with a scalar head in place of the token heads.
Or the head alone, on the states that the policy's own pass makes anyway (learner.value_trunk=policy): no weights,
moments and passes of a second trunk. The head starts at zero, so the first predictions are 0, the mean of normalised
rewards.
Source: MusicRL section 3.2 (own weights, both started from the base checkpoint); form of the head: our choice. Shared
trunk: Schulman et al., arXiv 1707.06347, equation 9.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s_t) at the start of every frame t, from states that somebody else makes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = _scalar_head(width)

    @classmethod
    def on_policy(cls, policy: Any) -> ValueHead:
        """A head for the states that `policy` shows."""
        return cls(_width_of(policy)).to(next(policy.parameters()).device)

    def forward(self, states: Tensor) -> Tensor:
        """states [B, T, D] -> values [B, T], in units of the mixed reward."""
        return self.head(states).squeeze(-1)


class ValueNetwork(nn.Module):
    """V(s_t) at the start of every frame t, with a trunk of its own.

    trunk: a module (codes [B, K, T], text [B, L]) -> states [B, T, D]; the state at t has seen the text and the frames
    before t only, so V does not depend on the actions that it is a baseline for.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = _scalar_head(width)

    @classmethod
    def from_policy(cls, policy: Any, copied: bool = True) -> ValueNetwork:
        """A value network on a copy of `policy.trunk`; the policy's own weights are neither shared nor touched.

        copied=False: on the trunk itself.
        """
        trunk = copy.deepcopy(policy.trunk).requires_grad_(True) if copied else policy.trunk
        return cls(trunk, _width_of(policy)).to(next(policy.parameters()).device)

    def forward(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T] int64, text [B, L] int64 -> values [B, T], in units of the mixed reward."""
        return self.head(self.trunk(codes, text)).squeeze(-1)


def _scalar_head(width: int) -> nn.Linear:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def _width_of(policy: Any) -> int:
    """D of the states that its trunk makes."""
    device = next(policy.parameters()).device
    codes = torch.zeros(1, len(policy.streams), 1, dtype=torch.int64, device=device)
    return policy.trunk(codes, policy.encode_text([""])).shape[-1]
