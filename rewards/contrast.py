"""The losses of two towers that learn to tell which clip belongs to which caption.

    logits_ij = s * <audio_i, text_j>;   L = 1/2 [ CE_i(logits_i,: -> i) + CE_j(logits_:,j -> j) ]

A pair (i, j != i) that fits as well is no negative: it is taken out of both sums, as captions leave attributes unsaid
and one batch holds several clips that a short caption describes.
Source: the contrastive objective of MuLan (arXiv 2208.12415), with the false negatives masked.

Contrast alone learns what tells most pairs of a batch apart (instrument, drums, chords) and stops: tempo is left, as
neither tower has a reason to speak of it before the other does. Prototypes shared by both towers give them that reason:

    L_p = mean over attributes of CE(P_a audio, value of the clip) + CE(P_a text, value that the caption names)

Source: Proxy-NCA (arXiv 1703.07464), with one set of proxies an attribute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
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


UNSAID = -100  # the label of an attribute that a caption does not name
PROTOTYPE_SCALE = 10.0  # of unit vectors, before the classifier


class Prototypes(nn.Module):
    """One direction of the common space for each value of each attribute; used in training only."""

    def __init__(self, width: int, values: dict[str, int]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, count) for name, count in values.items()})

    def loss(self, embedded: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """embedded [B, D] of unit length; labels by attribute [B] int64, UNSAID where there is none -> scalar."""
        losses = [
            F.cross_entropy(self.classifiers[name](PROTOTYPE_SCALE * embedded), label, ignore_index=UNSAID)
            for name, label in labels.items()
            if (label != UNSAID).any()
        ]
        return torch.stack(losses).mean() if losses else embedded.new_zeros(())
