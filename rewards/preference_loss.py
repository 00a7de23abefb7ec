"""How likely a vote is, given the scores of its two clips.

With d = s_a - s_b + side, where side is what it is worth to be heard first:

    davidson   P(a), P(tie), P(b) proportional to  exp(d / 2), nu, exp(-d / 2)
    half       a tie is half a win for each:  -log P(tie) = -(log P(a) + log P(b)) / 2,  P(a) = sigmoid(d)
    drop       ties teach nothing; P(a) = sigmoid(d)

Davidson's model keeps the Bradley-Terry odds among decided votes, P(a | no tie) = sigmoid(d), so that the score means
the same whatever the share of ties, and a tie says that the clips are close, as much as the data's own nu makes it
say. Half a win (the leaderboard's way) pulls the scores of tied clips together with a strength that nothing estimates.
Source: Christiano et al. 2017 (arXiv 1706.03741), section 2.2.3 (P(a > b) = sigmoid(s_a - s_b)); Davidson, JASA 65,
1970 (ties); Davidson and Beaver, Biometrics 33, 1977 (the side as a factor of the odds).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.preference_pairs import NEITHER, A, B

TIES = ("davidson", "half", "drop")


def vote_losses(difference: Tensor, log_nu: Tensor, choices: Tensor, ties: str = "davidson") -> Tensor:
    """Negative log-likelihood of votes. difference [B], log_nu scalar, choices [B] of A, B, TIE -> [B], nats.

    With ties="drop" a tie's loss is 0. A choice of NEITHER says nothing of an order and is no valid input.
    """
    assert not (choices == NEITHER).any(), "votes for neither clip are left out or counted as ties before"
    if ties == "davidson":
        logits = torch.stack([difference / 2, -difference / 2, log_nu.expand_as(difference)], dim=1)
        return F.cross_entropy(logits, choices, reduction="none")  # the columns lie as A, B, TIE
    wins, losses = -F.logsigmoid(difference), -F.logsigmoid(-difference)
    tied = (wins + losses) / 2 if ties == "half" else torch.zeros_like(wins)
    return torch.where(choices == A, wins, torch.where(choices == B, losses, tied))
