"""The loss of two towers that learn to tell which clip belongs to which caption.

    logits_ij = s * <audio_i, text_j>;   L = 1/2 [ CE_i(logits_i,: -> i) + CE_j(logits_:,j -> j) ]

A pair (i, j != i) that fits as well is no negative: it is taken out of both sums, as captions leave attributes unsaid
and one batch holds several clips that a short caption describes.
Source: the contrastive objective of MuLan (arXiv 2208.12415), with the false negatives masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(audio: Tensor, text: Tensor, scale: Tensor, fits: Tensor) -> Tensor:
    """audio, text [B, D] of unit length; scale a scalar; fits [B, B] bool, fits[i, j]: caption j suits clip i.

    The diagonal is the positive whatever `fits` says of it. -> scalar.
    """
    logits = scale * audio @ text.T  # [B, B]
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(fits & ~diagonal, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
