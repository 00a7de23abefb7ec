"""What a listener has really heard of a clip: the union of the stretches that were played."""

from __future__ import annotations

import math
from collections.abc import Sequence

from feedback.errors import Reason, Refused
from feedback.records import Played

SLACK_S = 0.25  # players report ends a little late, and a clip's last buffer may run over
TOO_SHORT_S = 0.01
MOST_RANGES = 200


def heard_of(ranges: Sequence[Sequence[float]], seconds: float, field: str = "played") -> Played:
    """Played stretches [(start, end), …] in any order, overlapping or not -> their union, within the clip.

    Raises Refused (invalid) where one is not a pair of finite numbers, runs backwards, or lies outside the clip by
    more than a player's inaccuracy.
    """
    if len(ranges) > MOST_RANGES:
        raise Refused(Reason.INVALID, field, f"got {len(ranges)} stretches, allowed at most {MOST_RANGES}")
    joined: list[tuple[float, float]] = []
    for start, end in sorted(_checked(stretch, seconds, field) for stretch in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end - start >= TOO_SHORT_S:
            joined.append((start, end))
    return Played(tuple(joined))


def _checked(stretch: Sequence[float], seconds: float, field: str) -> tuple[float, float]:
    start, end = (float(value) for value in stretch)
    if not (math.isfinite(start) and math.isfinite(end)):
        raise Refused(Reason.INVALID, field, "got a stretch that is not finite, allowed seconds from the beginning")
    if not -SLACK_S <= start <= end <= seconds + SLACK_S:
        allowed = f"allowed from 0 to {seconds:g} s, in order"
        raise Refused(Reason.INVALID, field, f"got a stretch from {start:g} to {end:g} s, {allowed}")
    return min(max(0.0, start), seconds), min(end, seconds)
