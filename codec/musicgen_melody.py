"""What a MusicGen-Melody says of its prefix, in audiocraft's configuration: how many places its chroma takes.

audiocraft names no such number. It follows from the length of the material that was learnt from, and from the window
that a melody is heard with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHROMA_BINS, CHROMA_PLACES = 12, 235  # of every released one: 30 s, a place for each 4,096 samples
LEAST_CHROMA_PLACES = 5  # of one window
PROJECTION = "condition_provider.conditioners.self_wav.output_proj.weight"  # chroma [bins] -> width
WINDOW = "condition_provider.conditioners.self_wav.chroma.spec.window"
RADIX, SECONDS = 14, 30.0


def why_not(given: Mapping[str, Any]) -> str:
    """What of a configuration cannot be followed; empty where all can."""
    chroma = _part(given, "conditioners", "self_wav", "chroma_stem")
    if not chroma.get("argmax", True):
        return "whose chroma_stem.argmax is False; allowed True"
    fuser = _part(given, "fuser")
    used = {way: sorted(fuser[way]) for way in ("prepend", "cross", "sum", "input_interpolate") if fuser.get(way)}
    if fuser and used != {"prepend": ["description", "self_wav"]}:
        ways = ", ".join(f"{way} {names}" for way, names in used.items()) or "nothing"
        return f"which is a MusicGen-Melody whose fuser has {ways}; allowed prepend of self_wav and description alone"
    return ""


def chroma_places(given: Mapping[str, Any], sample_rate_hz: int) -> int:
    """Places of the chroma of a clip as long as those that were learnt from; that of released ones where it is not
    said."""
    chroma = _part(given, "conditioners", "self_wav", "chroma_stem")
    rate, seconds = chroma.get("sample_rate"), _part(given, "dataset").get("segment_duration")
    rate = rate if isinstance(rate, int) else sample_rate_hz  # else it refers to another key
    seconds = seconds if isinstance(seconds, (int, float)) else SECONDS
    window = 2 ** int(chroma.get("radix2_exp", RADIX))
    return max(int(rate * seconds), window) // (window // 4) + 1


def seconds_of(places: int, sample_rate_hz: int) -> float:
    """A length of material from which `chroma_places` has so many."""
    if places == chroma_places({}, sample_rate_hz):
        return SECONDS
    return (places - 0.5) * (2**RADIX // 4) / sample_rate_hz


def _part(given: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found: Any = given
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
