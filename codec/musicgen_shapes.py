"""The measures of a MusicGen's language model, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MusicGenShapes:
    """What the language model of a checkpoint is made of."""

    width: int
    layers: int
    heads: int
    hidden: int
    codebooks: int
    entries: int
    text_width: int  # of T5's states
    audio_channels: int = 1
    positions: int = 2048  # places of the longest sequence
    frame_rate_hz: float = 50.0
    project_text: bool = True  # False: T5's states are used as they are, because they have the decoder's width
    chroma_places: int = 0  # of a melody, before the text and the tokens of a MusicGen-Melody; 0: any other MusicGen
    chroma_bins: int = 0

    @property
    def melody(self) -> bool:
        """Whether it is conditioned by a prefix instead of through cross-attention."""
        return self.chroma_places > 0

    @property
    def delays(self) -> tuple[int, ...]:
        """Steps by which each codebook lags: one more for each; in stereo left and right go together."""
        return tuple(k // self.audio_channels for k in range(self.codebooks))

    @property
    def parameters(self) -> int:
        """Numbers in the language model's weights."""
        attentions = 1 if self.melody else 2
        layer = 4 * attentions * self.width**2 + 2 * self.width * self.hidden + 2 * (attentions + 1) * self.width
        tokens = self.codebooks * self.width * (2 * self.entries + 1)
        text = (self.text_width + 1) * self.width if self.project_text else 0
        chroma = (self.chroma_bins + 1) * self.width if self.melody else 0
        return self.layers * layer + tokens + text + chroma + 2 * self.width

    @property
    def max_frames(self) -> int:
        return self.positions - max(self.delays) - 1
