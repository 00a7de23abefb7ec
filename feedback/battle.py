"""A Music Arena battle in either of its shapes, read into one view.

Flat is the released data set (one JSON object of columns), raw the arena's own log (nested). What neither the view
nor the records hold (lyrics, free text, hardware, …) is not looked at here; `feedback.music_arena` keeps it beside.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse

from feedback.records import Choice, ListenerKind

Json = dict[str, Any]
CHOICES = {"A": Choice.A, "B": Choice.B, "TIE": Choice.TIE, "BOTH_BAD": Choice.NEITHER}
_LYRICS = 100  # characters of the lyrics that stand for a missing prompt
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class Shape(StrEnum):
    FLAT = "flat"
    RAW = "raw"


class Unusable(Exception):
    """A battle that cannot be taken: the reason, "kind: what exactly"."""


@dataclass(frozen=True)
class Side:
    """One of the two clips."""

    system: str
    version: str
    audio: str  # path or URL
    heard_s: float
    duration_s: float | None  # as announced


@dataclass(frozen=True)
class Battle:
    """What both shapes say."""

    shape: Shape
    uuid: str
    prompt: str
    user: str
    kind: ListenerKind
    choice: Choice
    voted_at: datetime
    a: Side
    b: Side


def read_battle(data: object) -> Battle:
    """Parsed JSON -> the battle. Raises Unusable."""
    if not isinstance(data, dict):
        raise Unusable(f"wrong type: the file holds {_kind(data)}, allowed an object")
    if "battle_uuid" in data:
        return _read_flat(data)
    if "uuid" in data:
        return _read_raw(data)
    raise Unusable("unknown shape: neither battle_uuid nor uuid")


def heard_seconds(events: object, field: str) -> float:
    """Sum of the time from PLAY, or the last TICK, to the next TICK, PAUSE or STOP. Events are [name, unix time] or
    {"action": name, "time": …}; unknown names are passed over. Raises Unusable for what is no list of events.
    """
    heard_s, since = 0.0, None
    for event in _of(list, events, field) or []:
        name, moment = (event.get("action"), event.get("time")) if isinstance(event, dict) else _two(event, field)
        if not name or not moment:
            continue
        at_s = _finite(moment, field)
        if name == "PLAY":
            since = at_s if since is None else since
        elif name in ("TICK", "PAUSE", "STOP"):
            heard_s += max(0.0, at_s - since) if since is not None else 0.0
            since = at_s if name == "TICK" else None
    return heard_s


def _read_flat(data: Json) -> Battle:
    sides = [
        Side(
            system=_text(data, f"system_{side}"),
            version="",
            audio=_text(data, f"audio_{side}"),
            heard_s=_flat_heard(data, side),
            duration_s=_number(data, f"duration_{side}"),
        )
        for side in ("a", "b")
    ]
    return Battle(
        shape=Shape.FLAT,
        uuid=_uuid(data, "battle_uuid"),
        prompt=_text(data, "prompt"),
        user=_text(data, "user_pseudonym"),
        kind=_listener_kind(data),
        choice=_choice(data.get("preference")),
        voted_at=_flat_time(data),
        a=sides[0],
        b=sides[1],
    )


def _read_raw(data: Json) -> Battle:
    vote = _object(data, "vote")
    if not vote:
        raise Unusable("no vote: the battle was not voted on")
    user, session = _object(data, "prompt_user"), _object(data, "prompt_session")
    sides = [_raw_side(data, vote, side) for side in ("a", "b")]
    moment = _number(vote, "preference_time") or _number(session, "create_time")
    return Battle(
        shape=Shape.RAW,
        uuid=_uuid(data, "uuid"),
        prompt=_raw_prompt(data),
        user=_text(user, "salted_ip") or _text(user, "salted_fingerprint"),
        kind=_listener_kind(data),
        choice=_choice(vote.get("preference")),
        voted_at=_time(moment, "vote.preference_time"),
        a=sides[0],
        b=sides[1],
    )


def _raw_side(data: Json, vote: Json, side: str) -> Side:
    facts = _object(data, f"{side}_metadata")
    key = _object(facts, "system_key")
    # a URL is looked up by its file name; our own exports name a path in the folder
    url = urlparse(_text(data, f"{side}_audio_url"))
    return Side(
        system=_text(key, "system_tag"),
        version=_text(key, "variant_tag"),
        audio=PurePosixPath(url.path).name if url.scheme else url.path,
        heard_s=heard_seconds(vote.get(f"{side}_listen_data"), f"vote.{side}_listen_data"),
        duration_s=_number(facts, "duration"),
    )


def _raw_prompt(data: Json) -> str:
    """What was asked for; lyrics stand in for it as they do in the released data."""
    simple, detailed = data.get("prompt"), _object(data, "prompt_detailed")
    asked = _text(data, "prompt") if isinstance(simple, str) else _text(_object(data, "prompt"), "prompt")
    prompt = asked if asked.strip() else _text(detailed, "overall_prompt")
    if prompt.strip() or _flag(detailed.get("instrumental")):
        return prompt if prompt.strip() else ""
    sources = (detailed, _object(data, "a_metadata"), _object(data, "b_metadata"))
    lyrics = next((text for source in sources if (text := _text(source, "lyrics"))), "")
    return f"(Lyrics) {lyrics[:_LYRICS]}..." if lyrics.strip() else ""


def _flat_heard(data: Json, side: str) -> float:
    """From the listen events where they are, else the total."""
    field = f"listen_data_{side}"
    events = data.get(field)
    if isinstance(events, str) and events.strip():
        try:
            events = json.loads(events)
        except (ValueError, RecursionError):
            raise Unusable(f"wrong type: {field} is no JSON") from None
    if events:
        return heard_seconds(events, field)
    return max(0.0, _number(data, f"total_listening_time_{side}") or 0.0)


def _flat_time(data: Json) -> datetime:
    moment = _number(data, "timestamp")
    if moment:
        return _time(moment, "timestamp")
    text = _text(data, "date")
    try:
        date = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise Unusable(f"wrong type: date {text[:40]!r} is no ISO date") from None
    if date is None:
        raise Unusable("no time: neither timestamp nor date")
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


def _time(moment: float | None, field: str) -> datetime:
    if not moment:
        raise Unusable(f"no time: {field} is missing")
    try:
        return datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        raise Unusable(f"unknown value: {field} {moment!r} is no time") from None


def _choice(name: object) -> Choice:
    if name is None:
        raise Unusable("no vote: preference is missing")
    if not isinstance(name, str) or name not in CHOICES:
        raise Unusable(f"unknown preference: {str(name)[:40]!r}, allowed {', '.join(CHOICES)}")
    return CHOICES[name]


def _uuid(data: Json, field: str) -> str:
    uuid = _text(data, field)
    if not uuid:
        raise Unusable(f"no id: {field} is missing")
    return uuid


def _listener_kind(data: Json) -> ListenerKind:
    """A field that only our own exports have, so that simulated listeners never pass for people."""
    return ListenerKind.SIMULATED if data.get("listener_kind") == "simulated" else ListenerKind.PERSON


def _object(data: Json, field: str) -> Json:
    return _of(dict, data.get(field), field) or {}


def _text(data: Json, field: str) -> str:
    return _of(str, data.get(field), field) or ""


def _number(data: Json, field: str) -> float | None:
    value = data.get(field)
    return None if value is None else _finite(value, field)


def _flag(value: object) -> bool:
    """Booleans may be text."""
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


def _finite(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(f"wrong type: {field} is {_kind(value)}, allowed a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"unknown value: {field} is not finite")
    return number


def _two(event: object, field: str) -> tuple[Any, Any]:
    if not isinstance(event, list) or len(event) != 2:
        raise Unusable(f"wrong type: {field} holds {_kind(event)}, allowed [event, time]")
    return event[0], event[1]


def _of(kind: type, value: object, field: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise Unusable(f"wrong type: {field} is {_kind(value)}, allowed {_KINDS[kind]}")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else _KINDS[type(value)]
