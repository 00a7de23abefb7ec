"""Which sampler belongs to which policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from policy.musicgen.model import MusicGen
from policy.musicgen.packed import Precision
from policy.musicgen.sampler import MusicGenSampler
from policy.port import SamplingSettings
from policy.sampler import Sampler
from policy.tiny_musiclm import TinyMusicLM


class PolicySampler(Protocol):
    """Sampling of one policy. Call `refresh` after its weights changed."""

    def refresh(self) -> None: ...

    def sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        """text [B, L], one seed a row -> codes [B, K, T] int64 and their log-probabilities [B, K, T] float32."""
        ...


def sampler_of(policy: Any, precision: Precision = "float32") -> PolicySampler:
    """The sampler of a loaded policy.

    Raises TypeError for a module of no known kind, ValueError for a precision that its sampler does not have.
    """
    if isinstance(policy, TinyMusicLM):
        if precision != "float32":
            raise ValueError(f"precision: got {precision} with a TinyMusicLM, allowed float32")
        return Sampler(policy)
    if isinstance(policy, MusicGen):
        return MusicGenSampler(policy, precision)
    raise TypeError(f"sampler: got a {type(policy).__name__}, allowed TinyMusicLM or MusicGen")
