"""Which claims of having heard a clip are possible."""

from __future__ import annotations

import math

from feedback.errors import Reason, Refused
from feedback.records import Played

TOLERANCE_S = 0.25  # players report the end of a clip up to one buffer late
MAX_RANGES = 1000


def check_played(played: Played, seconds: float, field: str = "played", tolerance_s: float = TOLERANCE_S) -> None:
    """Ranges in seconds of a clip of `seconds`: finite, 0 <= start <= end <= seconds + tolerance, sorted, not
    overlapping. Two may touch. Raises Refused (invalid).
    """
    if len(played.ranges) > MAX_RANGES:
        raise _refused(field, f"got {len(played.ranges)} ranges, allowed {MAX_RANGES}")
    before = 0.0
    for place, stretch in enumerate(played.ranges):
        if len(stretch) != 2 or not all(_is_number(edge) for edge in stretch):
            raise _refused(f"{field}[{place}]", "allowed two finite numbers, start and end")
        start, end = stretch
        if start > end:
            raise _refused(f"{field}[{place}]", f"got a start of {start:g} s after the end {end:g} s")
        if start < before:
            what = "the clip's beginning" if place == 0 else f"the end of the range before, {before:g} s"
            raise _refused(f"{field}[{place}]", f"got a start of {start:g} s, before {what}")
        if end > seconds + tolerance_s:
            raise _refused(f"{field}[{place}]", f"got an end of {end:g} s in a clip of {seconds:g} s")
        before = end


def _is_number(edge: object) -> bool:
    return isinstance(edge, int | float) and not isinstance(edge, bool) and math.isfinite(edge)


def _refused(field: str, problem: str) -> Refused:
    return Refused(Reason.INVALID, field, problem)
