"""Small clips, pairs and votes for tests of the preference log."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np

from feedback.flac import read_flac, sha256, write_flac
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Clip, Consent, Listener, ListenerKind, Pair, Played, Rating, Vote

RATE_HZ, SECONDS = 16_000, 0.5
MOMENT = datetime(2026, 3, 1, 12, 30, 15, 123457, tzinfo=UTC)


@cache
def flac_of(number: int, seconds: float = SECONDS) -> bytes:
    """Noise of its own for each number."""
    noise = np.random.default_rng(number).normal(size=(1, int(seconds * RATE_HZ)))
    return write_flac(0.1 * noise.astype(np.float32), RATE_HZ)


def clip_of(number: int, **changed: object) -> Clip:
    codes = np.random.default_rng(number).integers(0, 65_536, size=(5, 12), dtype=np.uint16)
    data = flac_of(number)
    clip = Clip(sha256(data), f"prompt {number // 2}", f"policy_{number % 2}", "v1", number, RATE_HZ, SECONDS, codes)
    assert read_flac(data).seconds == SECONDS
    return replace(clip, **changed)  # type: ignore[arg-type]


def pair_of(number: int, clips: int = 2, **changed: object) -> Pair:
    """Of the clips 2·number and 2·number + 1, counted round."""
    a, b = (clip_of((2 * number + side) % clips).clip_id for side in (0, 1))
    pair = Pair(f"pair-{number}", f"prompt {number}", a, b, "", MOMENT + timedelta(seconds=number))
    return replace(pair, **changed)  # type: ignore[arg-type]


def listener_of(name: str = "ann", consent: Consent = Consent.TRAIN, **changed: object) -> Listener:
    return replace(Listener(name, ListenerKind.PERSON, consent), **changed)  # type: ignore[arg-type]


def vote_of(number: int, listener: str = "ann", choice: Choice = Choice.A, **changed: object) -> Vote:
    played = Played(((0.0, 0.25), (0.3, 0.5)))
    moment = MOMENT + timedelta(minutes=number, microseconds=7)
    ids = {"vote_id": f"vote-{listener}-{number}", "pair_id": f"pair-{number}", "listener_id": listener}
    vote = Vote(**ids, choice=choice, played_a=played, played_b=Played(((0.1, 0.4),)), voted_at=moment)
    return replace(vote, **changed)  # type: ignore[arg-type]


def rating_of(number: int, listener: str = "ann", **changed: object) -> Rating:
    played = Played(((0.0, 0.5),))
    ids = {"rating_id": f"rating-{listener}-{number}", "pair_id": f"pair-{number}", "listener_id": listener}
    rating = Rating(**ids, score_a=4, score_b=2, played_a=played, played_b=played, rated_at=MOMENT)
    return replace(rating, **changed)  # type: ignore[arg-type]


def fill(log: PreferenceLog, pairs: int = 3, clips: int = 2, listeners: tuple[str, ...] = ("ann",)) -> None:
    """Clips, pairs and listeners; nobody has answered yet."""
    for number in range(clips):
        log.add_clip(clip_of(number), flac_of(number))
    for name in listeners:
        log.add_listener(listener_of(name))
    log.add_pairs(pair_of(number, clips) for number in range(pairs))
