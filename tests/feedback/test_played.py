from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import Reason, Refused
from feedback.played import MAX_RANGES, TOLERANCE_S, check_played
from feedback.records import Played

SECONDS = 4.0
within = st.floats(0, SECONDS + TOLERANCE_S, allow_nan=False)
anything = st.floats() | st.integers(-10, 10) | st.booleans()


def refusal_of(*ranges: tuple) -> Refused:
    with pytest.raises(Refused) as caught:
        check_played(Played(ranges), SECONDS, "played_a")
    assert caught.value.reason is Reason.INVALID
    return caught.value


@given(st.lists(within, max_size=12))
def test_sorted_stretches_within_the_clip_are_taken(edges: list[float]) -> None:
    edges = sorted(edges)[: len(edges) // 2 * 2]
    check_played(Played(tuple(zip(edges[::2], edges[1::2], strict=True))), SECONDS)


@given(st.lists(st.tuples(anything, anything), max_size=5))
def test_whatever_is_taken_can_have_been_heard(ranges: list[tuple]) -> None:
    played = Played(tuple(ranges))
    try:
        check_played(played, SECONDS)
    except Refused:
        return
    edges = [edge for stretch in ranges for edge in stretch]
    assert edges == sorted(edges)
    assert all(math.isfinite(edge) and 0 <= edge <= SECONDS + TOLERANCE_S for edge in edges)
    assert played.seconds <= SECONDS + TOLERANCE_S


@pytest.mark.parametrize(
    "ranges",
    [
        ((1.0, 0.5),),
        ((-0.1, 1.0),),
        ((0.0, SECONDS + TOLERANCE_S + 0.01),),
        ((2.0, 3.0), (0.0, 1.0)),
        ((0.0, 2.0), (1.9, 3.0)),
        ((0.0, math.nan),),
        ((math.nan, 1.0),),
        ((0.0, math.inf),),
        ((False, True),),
        ((0.0, "1"),),
        ((0.0, 1.0, 2.0),),
    ],
)
def test_what_nobody_can_have_heard_is_refused(ranges: tuple) -> None:
    assert refusal_of(*ranges).field == f"played_a[{len(ranges) - 1}]"


def test_stretches_may_touch_and_be_empty() -> None:
    check_played(Played(((0.0, 1.0), (1.0, 1.0), (1.0, SECONDS))), SECONDS)
    check_played(Played(), SECONDS)


def test_endless_lists_are_refused() -> None:
    assert "allowed 1000" in str(refusal_of(*[(0.0, 0.0)] * (MAX_RANGES + 1)))
