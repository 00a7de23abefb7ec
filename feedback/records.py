"""The frozen records of the preference log: what was played to whom, and what they thought of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np


class Choice(StrEnum):
    """A listener's answer to a pair, by the side on which a clip was shown: a is the left one, or the upper one."""

    A = "a"
    B = "b"
    TIE = "tie"
    NEITHER = "neither"


class Consent(StrEnum):
    """What a listener allows their votes to be used for; each holds what stands before it."""

    COUNT = "count"  # anonymous figures only
    TRAIN = "train"  # shared reward models
    PERSONAL = "personal"  # a reward of their own


class ListenerKind(StrEnum):
    PERSON = "person"
    SIMULATED = "simulated"


@dataclass(frozen=True, eq=False)
class Clip:
    """One generated clip. Its id is the SHA-256 of its FLAC file, so equal sound is one clip.

    Imported clips may lack codes, seed (-1) and version (""), and may be equal in sound to a clip of another policy
    or prompt; then the id is another one and `audio` names the file.
    """

    clip_id: str
    prompt: str
    policy: str  # the name under which the app serves a policy; never shown before the vote
    policy_version: str  # content hash of its weights
    seed: int
    sample_rate_hz: int
    seconds: float
    codes: np.ndarray | None = None  # [K, T] uint16; None: not known as tokens of our codec
    audio: str = ""  # SHA-256 of the FLAC file where that is not the clip_id
    original: str = ""  # name of the file that the FLAC was made from, SHA-256 and suffix; "": it was a FLAC itself

    @property
    def audio_sha256(self) -> str:
        return self.audio or self.clip_id

    def facts(self) -> tuple[str | int | float, ...]:
        """Everything but the codes."""
        known = (self.clip_id, self.prompt, self.policy, self.policy_version, self.seed, self.sample_rate_hz)
        return (*known, self.seconds, self.audio, self.original)

    def __eq__(self, other: object) -> bool:
        """Also by codes, which a dataclass could not compare."""
        if not isinstance(other, Clip):
            return NotImplemented
        if self.codes is None or other.codes is None:
            return self.facts() == other.facts() and self.codes is other.codes
        return self.facts() == other.facts() and np.array_equal(self.codes, other.codes)

    def __hash__(self) -> int:
        return hash(self.clip_id)


@dataclass(frozen=True)
class Pair:
    """Two clips of one prompt in the order in which they were shown."""

    pair_id: str
    prompt: str
    clip_a: str
    clip_b: str
    study: str  # "" for free use of the app, else the name of a side-by-side evaluation
    created_at: datetime
    asked_by: str = ""  # the listener who wrote the prompt, whose deletion takes the pair along; "": a given prompt
    origin: str = ""  # JSON of what an imported file held beyond these records; "": made by the app


@dataclass(frozen=True)
class Played:
    """Stretches of the clip that were heard, in seconds from its beginning: sorted, apart, within the clip."""

    ranges: tuple[tuple[float, float], ...] = ()

    @property
    def seconds(self) -> float:
        return float(sum(end - start for start, end in self.ranges))


@dataclass(frozen=True)
class Listener:
    """A pseudonym; no address, no name."""

    listener_id: str
    kind: ListenerKind
    consent: Consent
    group: str = ""


@dataclass(frozen=True)
class Vote:
    """The id comes from the client, once per answer: the same id again changes nothing."""

    vote_id: str
    pair_id: str
    listener_id: str
    choice: Choice
    played_a: Played
    played_b: Played
    voted_at: datetime


@dataclass(frozen=True)
class Rating:
    """One listener's marks of both clips of a pair, 1 (bad) to 5 (excellent)."""

    rating_id: str
    pair_id: str
    listener_id: str
    score_a: int
    score_b: int
    played_a: Played
    played_b: Played
    rated_at: datetime


@dataclass(frozen=True)
class Receipt:
    """A vote or rating is durable. The same answer sent again gets an equal receipt."""

    record_id: str  # vote_id or rating_id
    recorded_at: datetime


@dataclass(frozen=True)
class Deletion:
    """What is left of a listener who asked to be deleted: that it was done, and how much it was."""

    listener_hash: str  # SHA-256 of the pseudonym, so that no later import brings the votes back
    deleted_at: datetime
    votes: int
    ratings: int
    pairs: int


@dataclass(frozen=True)
class Counts:
    """Rows of the log."""

    listeners: int
    clips: int
    pairs: int
    votes: int
    ratings: int
    deletions: int


@dataclass
class ExchangeReport:
    """What an import or export did: rows taken, and each row left out with its reason ("kind: what exactly")."""

    taken: int = 0
    present: int = 0  # rows that were there already, equal
    tables: dict[str, int] = field(default_factory=dict)  # rows taken, by table
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (row's id or place, reason)

    def take(self, table: str, rows: int = 1) -> None:
        self.taken += rows
        self.tables[table] = self.tables.get(table, 0) + rows

    def leave_out(self, row: str, reason: str) -> None:
        self.left_out.append((row, reason))
