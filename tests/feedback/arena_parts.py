"""Folders of Music Arena battles as the arena writes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 16_000
UNIX_S = 1_756_700_000.123456


def audio_of(number: int, kind: str, seconds: float = 2.0) -> bytes:
    """A tone as FLAC, WAV, MP3 or OGG."""
    times_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * (200 + 37 * number) * times_s)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, RATE_HZ, format=kind.upper())
    return buffer.getvalue()


def flat_battle(number: int, suffix: str, **changed: Any) -> dict[str, Any]:
    """A released battle."""
    heard = [["PLAY", UNIX_S], ["TICK", UNIX_S + 0.5], ["TICK", UNIX_S + 1.0], ["PAUSE", UNIX_S + 1.25]]
    battle: dict[str, Any] = {
        "battle_uuid": f"00000000-0000-4000-8000-{number:012d}",
        "date": "2025-09-01T00:13:20.123456-04:00",
        "prompt": "slow ballad with “violin” ♪",
        "is_instrumental": "true",
        "is_prebaked": False,
        "user_pseudonym": f"salted{number % 2}",
        "audio_a": f"audio_files/01-2025JULAUG/{number}-a.{suffix}",
        "system_a": "musicgen-small",
        "audio_b": f"audio_files/01-2025JULAUG/{number}-b.{suffix}",
        "system_b": "sao",
        "preference": ("A", "B", "TIE", "BOTH_BAD")[number % 4],
        "total_listening_time_a": 1.25,
        "total_listening_time_b": 7.5,
        "feedback": "General: nice | Audio A: thin",
        "timestamp": UNIX_S,
        "lyrics": "",
        "hardware_a": "A6000",
        "hardware_b": "Unknown (API)",
        "system_time_a": 3.25,
        "system_time_b": None,
        "gateway_time_a": 4,
        "gateway_time_b": 4.0,
        "duration_a": 2.0,
        "duration_b": 2.0,
        "sample_rate_a": RATE_HZ,
        "sample_rate_b": RATE_HZ,
        "listen_data_a": json.dumps(heard),
        "listen_data_b": None,
    }
    return battle | changed


def raw_battle(number: int, suffix: str, **changed: Any) -> dict[str, Any]:
    """A battle of the arena's own log."""
    events = [["PLAY", UNIX_S], ["PAUSE", UNIX_S + 1.5]]
    battle: dict[str, Any] = {
        "uuid": f"10000000-0000-4000-8000-{number:012d}",
        "gateway_git_hash": None,
        "prompt": {"prompt": "fast drums", "extra": [1, 1.0, True, None]},
        "prompt_detailed": {"overall_prompt": "fast drums", "instrumental": "true", "lyrics": None, "bpm": 120},
        "prompt_user": {"ip": None, "salted_ip": f"salted{number}", "salted_fingerprint": "f"},
        "prompt_session": {"uuid": "s", "create_time": UNIX_S - 100, "ack_tos": "v1"},
        "prompt_prebaked": "false",
        "a_audio_url": f"https://storage.example/audio-bucket/{number}-a.{suffix}?token=x",
        "b_audio_url": f"https://storage.example/audio-bucket/{number}-b.{suffix}?token=x",
        "vote": {
            "a_listen_data": events,
            "b_listen_data": [{"action": "PLAY", "time": UNIX_S}, {"action": "STOP", "time": UNIX_S + 0.75}],
            "preference": ("A", "B", "TIE", "BOTH_BAD")[number % 4],
            "preference_time": UNIX_S,
            "feedback": "",
            "a_feedback": None,
        },
        "timings": [["route", 1.5]],
    }
    for side, tag in (("a", "musicgen-small"), ("b", "sao")):
        key = {"system_tag": tag, "variant_tag": "initial"}
        facts = {"sample_rate": RATE_HZ, "duration": 2.0, "checksum": "abc", "lyrics": None}
        battle[f"{side}_metadata"] = {"system_key": key, **facts}
    return battle | changed


def write_flat(root: Path, number: int, suffix: str, **changed: Any) -> dict[str, Any]:
    """Into a folder laid out like the released data set."""
    battle = flat_battle(number, suffix, **changed)
    for place, side in enumerate("ab"):
        path = root / f"audio_files/01-2025JULAUG/{number}-{side}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio_of(2 * number + place, suffix))
    write_json(root / f"battle_data/01-2025JULAUG/{number}.json", battle)
    return battle


def write_raw(root: Path, number: int, suffix: str, **changed: Any) -> dict[str, Any]:
    """Logs in one folder, sound in another."""
    battle = raw_battle(number, suffix, **changed)
    for place, side in enumerate("ab"):
        path = root / f"audio/{number}-{side}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio_of(2 * number + place, suffix))
    write_json(root / f"logs/{number}.json", battle)
    return battle


def write_json(path: Path, battle: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(battle, ensure_ascii=False), encoding="utf-8")


def files_of(root: Path) -> dict[str, Any]:
    """Path -> parsed and written again with sorted keys (JSON), or bytes (sound)."""
    return {
        path.relative_to(root).as_posix(): json.dumps(json.loads(path.read_bytes()), sort_keys=True)
        if path.suffix == ".json"
        else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
