"""MusicGen's language model: one transformer over the steps of the delay pattern, conditioned through cross-attention,
or, of MusicGen-Melody, by a prefix.

    step 0 shows nothing (the special token in every codebook); step s shows codebook k of frame s - 1 - delay_k
    the state at step s gives the logits of all that step s + 1 shows

Source: Copet et al., arXiv 2306.05284, sections 2.2 to 2.4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.musicgen_folder import MusicGenFolder
from codec.musicgen_shapes import MusicGenShapes
from policy.linear import Dense, dense
from policy.musicgen.melody import MelodyTrunk
from policy.musicgen.prompts import PromptEncoder
from policy.musicgen.trunk import MusicGenTrunk
from policy.port import Stream

INIT_STD = 0.02


@dataclass(frozen=True)
class FrozenCopy:
    """A file with text encoder and codec that a policy was saved with: its device, inode, size, time, and the bytes of
    each tensor in it."""

    mark: tuple[int, int, int, int]
    sizes: dict[str, int]


class MusicGen(nn.Module):
    """policy.port.Policy with K acoustic streams. source: the checkpoint, whose other parts are saved with it again."""

    def __init__(self, shapes: MusicGenShapes, prompts: PromptEncoder, source: MusicGenFolder | None = None) -> None:
        super().__init__()
        self.shapes, self.prompts, self.source = shapes, prompts, source
        self.frozen_file: FrozenCopy | None = None
        self.streams = (Stream("acoustic", shapes.entries),) * shapes.codebooks
        self.frame_rate_hz = shapes.frame_rate_hz
        self.trunk = (MelodyTrunk if shapes.melody else MusicGenTrunk)(shapes, prompts)
        self.heads = Dense(shapes.width, shapes.codebooks * shapes.entries)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> T5's tokens [B, L] int64, L the longest. An empty prompt gives the null condition."""
        return self.prompts.tokens(prompts).to(self.heads.weight.device)

    def null_of(self, text: Tensor) -> Tensor:
        """The null condition of texts [B, L]: [B, 1], or as long as each text where that takes places of its own."""
        return self.trunk.null_of(text)

    def forward(
        self,
        codes: Tensor,
        text: Tensor,
        *,
        show: Callable[[Tensor], Any] | None = None,
        read: Callable[[Tensor], Any] | None = None,
        guidance_scale: float = 1.0,
    ) -> Any:
        """codes [B, K, T], text [B, L] -> logits [B, K, T, V] float32 of every cell given its past; with `read`, what
        it makes of the guided states [B, S, D], of which `readout` gives the logits.

        show: is called with the states of the frames under the text, as the trunk gives them: [B, T, D].

        Guidance is linear, and so are the heads: logits of guided states are guided logits.
        Raises ValueError where the codes have another number of streams or more frames than there are positions.
        """
        self.check_codes(codes)
        frames = codes.shape[2]
        steps = frames + max(self.shapes.delays)
        states = self.trunk.hidden(codes, text, steps)
        if show is not None:
            show(states[:, :frames])
        if guidance_scale != 1.0:
            null = self.trunk.hidden(codes, self.null_of(text), steps)
            states = null + guidance_scale * (states - null)
        return self.readout.logits(states, 0, frames) if read is None else read(states)

    @property
    def readout(self) -> MusicGenReadout:
        """States to logits."""
        return MusicGenReadout(self.heads, self.shapes.delays)

    def check_codes(self, codes: Tensor) -> None:
        """Raises ValueError for codes that the model does not take."""
        if codes.shape[1] != len(self.streams) or not 1 <= codes.shape[2] <= self.shapes.max_frames:
            allowed = f"[B, {len(self.streams)}, 1 to {self.shapes.max_frames}]"
            raise ValueError(f"codes: got shape {list(codes.shape)}, allowed {allowed}")

    def set_dropout(self, probability: float) -> None:
        """Dropout on residual branches while in training mode. Zero unless set, and never stored."""
        for layer in self.trunk.blocks:
            layer.dropout = probability


class MusicGenReadout:
    """policy.port.Readout: one head for each codebook, which reads the states as many steps later as it lags.

    A pass may change where the heads' weight lies; it is asked for at each use.
    """

    def __init__(self, heads: nn.Linear, delays: tuple[int, ...]) -> None:
        self.heads, self.delays = heads, delays

    def logits(self, states: Tensor, start: int, stop: int) -> Tensor:
        weight = self.heads.weight
        states = states.to(weight.dtype)
        heads = weight.unflatten(0, (len(self.delays), -1))
        cells = [
            dense(states[:, start + late : stop + late], head) for late, head in zip(self.delays, heads, strict=True)
        ]
        return torch.stack(cells, dim=1).float()

    def copied(self, device: str, dtype: torch.dtype) -> MusicGenReadout:
        heads = copy.deepcopy(self.heads).requires_grad_(False)
        return MusicGenReadout(heads.to(device, dtype), self.delays)
