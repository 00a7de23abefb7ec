"""Records to rows of the tables and back. What comes back equals what went in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import RowMapping

from feedback.records import (
    Choice,
    Clip,
    Consent,
    Deletion,
    Listener,
    ListenerKind,
    Pair,
    Played,
    Rating,
    Vote,
)

_YEAR_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    return (moment - _YEAR_1970) // timedelta(microseconds=1)


def moment(microseconds_since_1970: int) -> datetime:
    """The UTC time of `microseconds`."""
    return _YEAR_1970 + timedelta(microseconds=microseconds_since_1970)


def clip_row(clip: Clip) -> dict[str, Any]:
    codes = None if clip.codes is None else np.ascontiguousarray(clip.codes, dtype="<u2")
    return {
        "clip_id": clip.clip_id,
        "prompt": clip.prompt,
        "policy": clip.policy,
        "policy_version": clip.policy_version,
        "seed": clip.seed,
        "sample_rate_hz": clip.sample_rate_hz,
        "seconds": float(clip.seconds),
        "streams": None if codes is None else len(codes),
        "codes": None if codes is None else codes.tobytes(),
        "audio": clip.audio,
        "original": clip.original,
    }


def clip_of(row: RowMapping) -> Clip:
    facts = ("clip_id", "prompt", "policy", "policy_version", "seed", "sample_rate_hz", "seconds", "audio", "original")
    return Clip(codes=codes_of(row["streams"], row["codes"]), **{name: row[name] for name in facts})


def codes_of(streams: int | None, codes: bytes | None) -> np.ndarray | None:
    """[K, T] uint16, read-only; None where the clip has none."""
    return None if codes is None else np.frombuffer(bytes(codes), dtype="<u2").reshape(streams or 0, -1)


def pair_row(pair: Pair) -> dict[str, Any]:
    """Without its author, who stands in a table apart."""
    return {
        "pair_id": pair.pair_id,
        "prompt": pair.prompt,
        "clip_a": pair.clip_a,
        "clip_b": pair.clip_b,
        "study": pair.study,
        "created_us": microseconds(pair.created_at),
        "origin": pair.origin,
    }


def pair_of(row: RowMapping) -> Pair:
    facts = {name: row[name] for name in ("pair_id", "prompt", "clip_a", "clip_b", "study", "origin")}
    return Pair(created_at=moment(row["created_us"]), asked_by=row["asked_by"] or "", **facts)


def vote_row(vote: Vote) -> dict[str, Any]:
    """Without the moment of recording."""
    own = {"vote_id": vote.vote_id, "choice": str(vote.choice), "answered_us": microseconds(vote.voted_at)}
    return own | _answer_row(vote)


def vote_of(row: RowMapping) -> Vote:
    return Vote(
        vote_id=row["vote_id"],
        pair_id=row["pair_id"],
        listener_id=row["listener_id"],
        choice=Choice(row["choice"]),
        played_a=played_of(row["played_a"]),
        played_b=played_of(row["played_b"]),
        voted_at=moment(row["answered_us"]),
    )


def rating_row(rating: Rating) -> dict[str, Any]:
    """Without the moment of recording."""
    own = {"rating_id": rating.rating_id, "score_a": rating.score_a, "score_b": rating.score_b}
    return own | {"answered_us": microseconds(rating.rated_at)} | _answer_row(rating)


def rating_of(row: RowMapping) -> Rating:
    return Rating(
        rating_id=row["rating_id"],
        pair_id=row["pair_id"],
        listener_id=row["listener_id"],
        score_a=row["score_a"],
        score_b=row["score_b"],
        played_a=played_of(row["played_a"]),
        played_b=played_of(row["played_b"]),
        rated_at=moment(row["answered_us"]),
    )


def listener_of(row: RowMapping) -> Listener:
    return Listener(row["listener_id"], ListenerKind(row["kind"]), Consent(row["consent"]), group=row["listener_group"])


def deletion_of(row: RowMapping) -> Deletion:
    counts = (row["votes"], row["ratings"], row["pairs"])
    return Deletion(row["listener_hash"], moment(row["deleted_us"]), *counts)


def played_text(played: Played) -> str:
    """JSON [[start, end], …] in seconds; floats are written so that they read back equal."""
    return json.dumps([[float(start), float(end)] for start, end in played.ranges])


def played_of(text: str) -> Played:
    return Played(tuple((start, end) for start, end in json.loads(text)))


def _answer_row(answer: Vote | Rating) -> dict[str, Any]:
    return {
        "pair_id": answer.pair_id,
        "listener_id": answer.listener_id,
        "played_a": played_text(answer.played_a),
        "played_b": played_text(answer.played_b),
        "heard_a_s": answer.played_a.seconds,
        "heard_b_s": answer.played_b.seconds,
    }
