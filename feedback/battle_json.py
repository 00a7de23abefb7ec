"""A Music Arena battle made from the log's records, in either of its shapes (`feedback.battle`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feedback.battle import CHOICES, Json, Shape
from feedback.records import Clip, Listener, ListenerKind, Pair, Played, Vote

PREFERENCES = {choice: name for name, choice in CHOICES.items()}
PSEUDONYM = "music-arena:"  # before the arena's own pseudonyms, so that they are nobody of ours


@dataclass(frozen=True)
class Told:
    """The records of one battle. `audio_a` and `audio_b` are where its files stand in an exported folder."""

    vote: Vote
    pair: Pair
    clip_a: Clip
    clip_b: Clip
    listener: Listener
    audio_a: str
    audio_b: str


def flat_of(told: Told) -> Json:
    """The released shape."""
    vote, pair = told.vote, told.pair
    columns: Json = {
        "battle_uuid": vote.vote_id,
        "date": vote.voted_at.isoformat(),
        "prompt": pair.prompt,
        "is_instrumental": None,
        "is_prebaked": not pair.asked_by,
        "user_pseudonym": pseudonym_of(told.listener, vote),
        "preference": PREFERENCES[vote.choice],
        "feedback": "",
        "timestamp": vote.voted_at.timestamp(),
        "lyrics": "",
    }
    for side, clip, played, audio in _sides(told):
        columns |= {
            f"audio_{side}": audio,
            f"system_{side}": clip.policy,
            f"total_listening_time_{side}": played.seconds,
            f"hardware_{side}": None,
            f"system_time_{side}": None,
            f"gateway_time_{side}": None,
            f"duration_{side}": clip.seconds,
            f"sample_rate_{side}": clip.sample_rate_hz,
            f"listen_data_{side}": None,
        }
    return columns | _simulated(told.listener)


def raw_of(told: Told) -> Json:
    """The arena's own log. The lengths of the listen events are true; their moments are laid before the vote, as the
    log knows which parts of a clip were heard and not when."""
    vote, pair = told.vote, told.pair
    battle: Json = {
        "uuid": vote.vote_id,
        "prompt": {"prompt": pair.prompt},
        "prompt_detailed": {"overall_prompt": pair.prompt},
        "prompt_user": {"salted_ip": pseudonym_of(told.listener, vote), "salted_fingerprint": None},
        "prompt_session": {"create_time": pair.created_at.timestamp()},
        "prompt_prebaked": not pair.asked_by,
    }
    opinion: Json = {
        "preference": PREFERENCES[vote.choice],
        "preference_time": vote.voted_at.timestamp(),
        "feedback": None,
        "a_feedback": None,
        "b_feedback": None,
    }
    for side, clip, played, audio in _sides(told):
        key = {"system_tag": clip.policy, "variant_tag": clip.policy_version}
        facts = {"system_key": key, "sample_rate": clip.sample_rate_hz, "duration": clip.seconds}
        battle |= {f"{side}_audio_url": audio, f"{side}_metadata": facts}
        opinion[f"{side}_listen_data"] = _events(played, vote.voted_at.timestamp())
    return battle | {"vote": opinion} | _simulated(told.listener)


MAKERS: dict[Shape, Callable[[Told], Json]] = {Shape.FLAT: flat_of, Shape.RAW: raw_of}


def pseudonym_of(listener: Listener, vote: Vote) -> str | None:
    """The arena's own pseudonym again; None for a battle that came without one."""
    if listener.listener_id == anonymous(vote.vote_id):
        return None
    return listener.listener_id.removeprefix(PSEUDONYM)


def anonymous(uuid: str) -> str:
    """The listener of a battle without a pseudonym."""
    return f"{PSEUDONYM}anonymous:{uuid}"


def _simulated(listener: Listener) -> Json:
    return {"listener_kind": "simulated"} if listener.kind is ListenerKind.SIMULATED else {}


def _sides(told: Told) -> tuple[tuple[str, Clip, Played, str], ...]:
    return (
        ("a", told.clip_a, told.vote.played_a, told.audio_a),
        ("b", told.clip_b, told.vote.played_b, told.audio_b),
    )


def _events(played: Played, end_s: float) -> list[list[str | float]]:
    start_s = end_s - played.seconds
    events: list[list[str | float]] = []
    for start, end in played.ranges:
        events += [["PLAY", start_s], ["PAUSE", start_s + end - start]]
        start_s += end - start
    return events
