"""What every audio codec offers, whatever model is behind it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Discrete audio tokens in and out.

    Shapes: pcm [B, C, N] float32 in [-1, 1]; codes [B, K, T] int64, level 0 the coarsest; log-mel [B, 64, F].
    """

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def channels(self) -> int:
        """Audio channels C of `encode`'s input and `decode`'s output."""
        ...

    @property
    def frame_rate_hz(self) -> float:
        """Codec frames a second: T = seconds * frame_rate_hz."""
        ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries V of each of the K residual levels."""
        ...

    @property
    def version(self) -> str:
        """Short content hash of the weights."""
        ...

    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, C, N] -> codes [B, K, T]."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] with k <= K leading levels -> pcm [B, C, N]."""
        ...

    def decode_log_mel(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> what `log_mel` sees in the decoded audio, [B, 64, F] at 50 Hz, without building a phase
        where the codec can avoid it."""
        ...
