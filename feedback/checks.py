"""What a record must be before the log takes it. Pure; raises Refused (invalid)."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from feedback.errors import Reason, Refused
from feedback.records import Choice, Clip, Consent, Listener, ListenerKind, Pair, Rating, Vote

MAX_ID = 200
MAX_PROMPT = 10_000
MAX_ORIGIN = 4_000_000
_ID = re.compile(r"[!-~]+")  # printable ASCII without blanks: ids go into paths, URLs and logs
_HASH = re.compile(r"[0-9a-f]{64}")
_ORIGINAL = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,8}")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")  # what UTF-8 or PostgreSQL cannot hold
_YEAR_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(3000, 1, 1, tzinfo=UTC)


def check_id(field: str, value: str) -> None:
    """1 to 200 printable ASCII characters without blanks."""
    if not isinstance(value, str) or len(value) > MAX_ID or not _ID.fullmatch(value):
        raise refused(field, f"allowed 1 to {MAX_ID} printable ASCII characters without blanks")


def check_text(field: str, value: str, longest: int = MAX_PROMPT) -> None:
    """Text that every database can hold, "" included."""
    if not isinstance(value, str) or len(value) > longest or _NO_TEXT.search(value):
        raise refused(field, f"allowed text of up to {longest} characters without NUL or half characters")


def check_time(field: str, value: datetime) -> None:
    """A moment with a time zone, since 1970."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise refused(field, "allowed a time with its time zone")
    if not _YEAR_1970 <= value <= _LATEST:
        raise refused(field, f"got {value.isoformat()}, allowed from 1970 to 2999")


def check_listener(listener: Listener) -> None:
    check_id("listener_id", listener.listener_id)
    check_text("group", listener.group, MAX_ID)
    _check_member("kind", listener.kind, ListenerKind)
    _check_member("consent", listener.consent, Consent)


def check_consent(consent: Consent) -> None:
    _check_member("consent", consent, Consent)


def check_clip(clip: Clip) -> None:
    """Everything but its sound."""
    if not _HASH.fullmatch(clip.clip_id):
        raise refused("clip_id", "allowed 64 hexadecimal digits")
    if clip.audio and not _HASH.fullmatch(clip.audio):
        raise refused("audio", "allowed 64 hexadecimal digits")
    if clip.original and not _ORIGINAL.fullmatch(clip.original):
        raise refused("original", "allowed 64 hexadecimal digits and a suffix")
    for field in ("prompt", "policy", "policy_version"):
        check_text(field, getattr(clip, field))
    if not _is_whole(clip.seed) or not -(2**63) <= clip.seed < 2**63:
        raise refused("seed", "allowed a whole number of 64 bits")
    if not _is_whole(clip.sample_rate_hz) or not 1 <= clip.sample_rate_hz <= 655_350:
        raise refused("sample_rate_hz", "allowed 1 to 655350")
    if not math.isfinite(clip.seconds) or clip.seconds <= 0:
        raise refused("seconds", f"got {clip.seconds!r}, allowed a finite number above 0")
    _check_codes(clip)


def check_pair(pair: Pair) -> None:
    check_id("pair_id", pair.pair_id)
    check_text("prompt", pair.prompt)
    check_text("study", pair.study, MAX_ID)
    check_time("created_at", pair.created_at)
    if pair.asked_by:
        check_id("asked_by", pair.asked_by)
    if len(pair.origin) > MAX_ORIGIN or not pair.origin.isascii():
        raise refused("origin", f"allowed JSON in ASCII of up to {MAX_ORIGIN} characters")


def check_vote(vote: Vote) -> None:
    """Everything but the played ranges, which need the clips."""
    check_id("vote_id", vote.vote_id)
    _check_member("choice", vote.choice, Choice)
    check_time("voted_at", vote.voted_at)


def check_rating(rating: Rating) -> None:
    """Everything but the played ranges, which need the clips."""
    check_id("rating_id", rating.rating_id)
    for field in ("score_a", "score_b"):
        score = getattr(rating, field)
        if not _is_whole(score) or not 1 <= score <= 5:
            raise refused(field, f"got {score!r}, allowed 1 to 5")
    check_time("rated_at", rating.rated_at)


def refused(field: str, problem: str) -> Refused:
    return Refused(Reason.INVALID, field, problem)


def _check_codes(clip: Clip) -> None:
    codes = clip.codes
    if codes is not None and (codes.dtype != "uint16" or codes.ndim != 2 or 0 in codes.shape):
        raise refused("codes", f"got {codes.dtype} {codes.shape}, allowed uint16 [streams, frames]")


def _check_member(field: str, value: object, kind: type[Choice] | type[Consent] | type[ListenerKind]) -> None:
    if value not in list(kind):
        raise refused(field, f"allowed {', '.join(kind)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
