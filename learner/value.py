"""V_phi: a network of its own that predicts a sequence's reward from what has been generated so far.

It starts as a copy of the base policy's temporal trunk, with a scalar head in place of the token heads. The head starts
at zero, so the first predictions are 0, the mean of normalised rewards.
Source: MusicRL section 3.2 (own weights, both started from the base checkpoint); form of the head: our choice.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ValueNetwork(nn.Module):
    """V(s_t) at the start of every frame t: one value for the K cells of the frame.

    trunk: a module (codes [B, K, T], text [B, L]) -> states [B, T, D]; the state at t has seen the text and the frames
    before t only, so V does not depend on the actions that it is a baseline for.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_policy(cls, policy: Any, copied: bool = True) -> ValueNetwork:
        """A value network on a copy of `policy.trunk`; the policy's own weights are neither shared nor touched.

        copied=False: on the trunk itself.
        """
        trunk = copy.deepcopy(policy.trunk).requires_grad_(True) if copied else policy.trunk
        device = next(policy.parameters()).device
        codes = torch.zeros(1, len(policy.streams), 1, dtype=torch.int64, device=device)
        with torch.no_grad():
            width = trunk(codes, policy.encode_text([""])).shape[-1]
        return cls(trunk, width).to(device)

    def forward(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T] int64, text [B, L] int64 -> values [B, T], in units of the mixed reward."""
        return self.head(self.trunk(codes, text)).squeeze(-1)
