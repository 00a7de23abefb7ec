"""What is asked of a clip maker, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

from feedback.records import Clip


@dataclass(frozen=True)
class Take:
    """One clip to be made: by which policy, from which noise."""

    policy: str
    seed: int


@dataclass(frozen=True)
class MadeClip:
    clip: Clip
    flac: bytes
