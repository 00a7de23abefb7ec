"""What the learner, the sampler and the value network ask of an audio-token language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the replay store and the driver pass these records on and need no torch
    import torch
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

    def null_of(self, text: Tensor) -> Tensor:
        """The null condition that guidance sets against text tokens [B, L]."""
        ...

    def __call__(self, codes: Tensor, text: Tensor, *, show: Callable[[Tensor], Any] | None = None) -> Tensor:
        """Teacher forcing. codes [B, K, T], text [B, L] -> logits [B, K, T, V] of every cell given its past.

        show: is called with the trunk's states [B, T, D], of which each knows the text and the frames before it only.
        """
        ...


class Readout(Protocol):
    """The last, linear part of a policy: states to logits, of as many frames at a time as one likes."""

    def logits(self, states: Tensor, start: int, stop: int) -> Tensor:
        """States of a whole clip [B, S, D] -> logits [B, K, t, V] float32 of the frames from `start` to `stop`."""
        ...

    def copied(self, device: str, dtype: torch.dtype) -> Readout:
        """One that stays as it is, whatever becomes of the policy."""
        ...


@runtime_checkable
class PolicyOfStates(Policy, Protocol):
    """A policy whose logits can be had a few frames at a time, as they are linear in its states. All of its streams
    have V entries."""

    @property
    def readout(self) -> Readout: ...

    def __call__(
        self,
        codes: Tensor,
        text: Tensor,
        *,
        show: Callable[[Tensor], Any] | None = None,
        read: Callable[[Tensor], Any] | None = None,
        guidance_scale: float = 1.0,
    ) -> Any:
        """As a Policy; with `read`, what it makes of the states, guided. It is called within the pass, for of ranks
        that spread the policy none holds its weights before or after. `show` gets the states without guidance."""
        ...
