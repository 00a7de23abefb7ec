"""What the learner, the sampler and the value network ask of an audio-token language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the replay store and the driver pass these records on and need no torch
    from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One row of the codes: semantic tokens or one acoustic codebook, with `size` entries."""

    kind: Literal["semantic", "acoustic"]
    size: int


@dataclass(frozen=True)
class SamplingSettings:
    """The distribution that is sampled, and therefore the one whose log-probabilities are meant.

    logits = null + guidance_scale * (conditioned - null), then / temperature. guidance_scale 1 is no guidance.
    """

    temperature: float = 0.99
    guidance_scale: float = 1.0


@runtime_checkable
class Policy(Protocol):
    """A torch module over codes [B, K, T], conditioned on a prompt. Streams may differ in size: logits are padded to
    V = max size with -inf."""

    streams: tuple[Stream, ...]
    frame_rate_hz: float

    def encode_text(self, prompts: list[str] | tuple[str, ...]) -> Tensor:
        """Prompts -> text tokens [B, L] int64, padded. An empty prompt gives the null condition."""
        ...

    def __call__(self, codes: Tensor, text: Tensor) -> Tensor:
        """Teacher forcing. codes [B, K, T], text [B, L] -> logits [B, K, T, V] of every cell given its past."""
        ...
