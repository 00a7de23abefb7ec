"""What is asked of a clip maker, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

from feedback.records import Clip


@dataclass(frozen=True)
class Take:
    """One clip to be made: by which version of which policy, from which noise."""

    policy: str
    seed: int
    version: str = ""  # of a policy that follows a registry; "": the one that is current there


@dataclass(frozen=True)
class MadeClip:
    clip: Clip
    flac: bytes
