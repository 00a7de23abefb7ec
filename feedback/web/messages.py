"""What goes over the wire, as FastAPI checks it and as the API's schema states it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from feedback.heard import MOST_RANGES
from feedback.records import Choice, Consent

Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits")]
ClipIdentifier = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the FLAC file")]
Second = Annotated[float, Field(ge=-1, le=3600, allow_inf_nan=False)]
Stretch = Annotated[tuple[Second, Second], Field(description="start and end, in seconds from the clip's beginning")]
Score = Annotated[int, Field(ge=1, le=5, strict=True)]


class Message(BaseModel):
    """Unknown fields are refused: a page of another version is told so."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Message):
    """Every answer above 399."""

    error: str


class ConsentIn(Message):
    consent: Consent
    group: Annotated[str, Field(max_length=60, description="of the link that invited a new listener")] = ""


class AskIn(Message):
    prompt: Annotated[str, Field(max_length=2000)] | None = None


class HeardIn(Message):
    """What was played of one clip."""

    clip_id: ClipIdentifier
    played: Annotated[list[Stretch], Field(max_length=MOST_RANGES)]


class VoteIn(Message):
    vote_id: Identifier
    pair_id: Identifier
    choice: Choice
    a: HeardIn
    b: HeardIn


class RatingIn(Message):
    rating_id: Identifier
    pair_id: Identifier
    score_a: Score
    score_b: Score
    a: HeardIn
    b: HeardIn


class TokenIn(Message):
    token: Annotated[str, Field(max_length=1000)]


class SessionOut(Message):
    """Who the page speaks for."""

    csrf_token: str
    consent: Consent | None
    prompt_max_chars: int
    study: str
    operator: str


class ClipOut(Message):
    clip_id: ClipIdentifier
    url: str
    seconds: float
    needed_s: float


class PairOut(Message):
    """Clips in the order in which they are shown. Says nothing of what made them."""

    pair_id: Identifier
    prompt: str
    a: ClipOut
    b: ClipOut


class StateOut(Message):
    """How far the pair is that the listener asked for."""

    state: Literal["none", "queued", "sampling", "rendering", "saving", "ready", "failed"]
    prompt: str = ""
    ahead: int = 0
    message: str = ""
    pair: PairOut | None = None


StudyState = Literal["open", "waiting", "done"]


class StudyOut(Message):
    """Where the listener is in a study. open: pairs they may still rate, the present one included. waiting: all of
    them are out with other listeners, or not made yet."""

    state: StudyState
    rated: int
    open: int
    pair: PairOut | None = None


class ReceiptOut(Message):
    """The answer is durable."""

    record_id: Identifier
    recorded_at: str


class SuggestionsOut(Message):
    prompts: list[str]


class DeletionOut(Message):
    votes: int
    ratings: int


class HealthOut(Message):
    status: Literal["ok"]
    makers_up: bool


class Preferred(Message):
    """How often a policy was preferred to the others, in pairs of different ones."""

    policy: str
    wins: int
    losses: int
    ties: int


class RatedOut(Message):
    policy: str
    mean: float
    ratings: int


class SummaryOut(Message):
    """The admin page."""

    listeners: int
    clips: int
    pairs: int
    votes: int
    choices: dict[str, int]
    ratings: int
    agreeing: int
    compared: int
    preferred: list[Preferred]
    study: str
    study_raters: dict[str, int]
    study_means: list[RatedOut]
