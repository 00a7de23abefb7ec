"""MusicGen-Melody's trunk: conditioned by what stands in front of the tokens, without cross-attention.

    [a melody's chroma, at a fixed number of places; T5's states of the prompt; what the steps show]

All of it is one causal sequence, whose positions count over the prefix. No melody is ever asked for here: in its place
stands what stands for none, the chroma of silence. Under the null condition a prompt's places stay and hold zeros, so
that both passes of a guided step stand at the same position; in tokens such a place is NOTHING.

Source: Copet et al., arXiv 2306.05284, section 2.3; transformers' MusicgenMelodyForConditionalGeneration, whose numbers
for a prompt that is alone in its batch these are (in a batch it lets prompts see, and be moved by, others' padding).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.musicgen_shapes import MusicGenShapes
from policy.musicgen.prompts import PromptEncoder
from policy.musicgen.t5 import PAD
from policy.musicgen.trunk import MusicGenTrunk, sinusoids

NOTHING = -1  # in a text's tokens: a place without a word


class MelodyTrunk(MusicGenTrunk):
    """Codes and text -> states, of the steps alone.

    embed_chroma learns only where somebody asks for it: no melody is shown, so it could but forget them.
    """

    def __init__(self, shapes: MusicGenShapes, prompts: PromptEncoder) -> None:
        super().__init__(shapes, prompts)
        self.embed_chroma = nn.Linear(shapes.chroma_bins, shapes.width).requires_grad_(False)

    def through(self, x: Tensor, text: Tensor) -> Tensor:
        """What the steps show, embedded [B, S, D], and text [B, L] -> their states [B, S, D].

        Rows with shorter prompts end with their padding, behind all that they show, where none of it is seen.
        """
        begins, steps = self.begins(text), x.shape[1]
        x = torch.cat([self.prefix(text), x], dim=1)  # [B, P + S, D]
        together = bool((begins == x.shape[1] - steps).all())
        if not together:
            x = taken(x, padding_last(begins, steps, x.shape[1]))
        x = x + self.places(x.shape[1])
        for layer in self.blocks:
            x = layer(x, None, None)
        if together:
            x = x[:, -steps:]
        else:
            x = taken(x, begins[:, None] + torch.arange(steps, device=x.device))
        return self.norm(x)

    def prefix(self, text: Tensor) -> Tensor:
        """text [B, L] -> the chroma of silence and T5's states, in the decoder's width [B, P, D], P the longest; zeros
        where a prompt has no word."""
        return torch.cat([self.silence().expand(len(text), -1, -1), self.projected(text)], dim=1)

    def silence(self) -> Tensor:
        """What stands for no melody [P, D]: at each place the first of the twelve tones."""
        first = torch.zeros_like(self.embed_chroma.weight[0])
        first[0] = 1
        return self.embed_chroma(first).expand(self.shapes.chroma_places, -1)

    def begins(self, text: Tensor) -> Tensor:
        """text [B, L] -> how many places stand before each row's first step [B]. An empty prompt has one place."""
        return self.shapes.chroma_places + (text != PAD).sum(-1).clamp_min(1)

    def projected(self, text: Tensor) -> Tensor:
        return super().projected(text.clamp_min(PAD))

    def null_of(self, text: Tensor) -> Tensor:
        return torch.where(text == PAD, PAD, NOTHING)

    def places(self, count: int) -> Tensor:
        if count <= len(self.positions):
            return super().places(count)
        return sinusoids(count, self.positions.shape[1]).to(self.norm.weight)  # a long clip behind a long prompt


def padding_last(begins: Tensor, steps: int, length: int) -> Tensor:
    """begins [B] of sequences [prefix, padding, S steps] -> [B, length]: where the places of [prefix, steps, padding]
    come from."""
    place, begins = torch.arange(length, device=begins.device)[None], begins[:, None]
    padding = length - steps - begins
    moved = torch.where(place < begins + steps, place + padding, place - steps)
    return torch.where(place < begins, place, moved)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """x [B, S, D], places [B, N] -> [B, N, D]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
