"""How many members keep up with the slowest stage, and how little noise moves that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sizing import LONGEST_BACK_OFF, Bounds, Sizer, StepTime, wanted_members

REST_S = 60.0
WORK = {"generator": True, "scorer": True}


def sizer(generators: tuple[int, int] = (0, 16), scorers: tuple[int, int] = (1, 1)) -> Sizer:
    return Sizer({"generator": Bounds(*generators), "scorer": Bounds(*scorers)}, REST_S)


def run(made: Sizer, sizes: dict[str, int], steps: list[StepTime], step_s: float = 10.0, now_s: float = 0.0) -> int:
    """Goes through the steps and applies what is decided to `sizes`. -> changes."""
    changes = 0
    for number, step in enumerate(steps):
        made.stepped(step, sizes)
        for resize in made.decide(now_s + number * step_s, sizes, WORK):
            sizes[resize.role] = resize.size
            changes += 1
    return changes


def even(count: int, learner_s: float, generator_s: float, scorer_s: float = 0.1) -> list[StepTime]:
    return [StepTime(learner_s, {"generator": generator_s, "scorer": scorer_s})] * count


def test_generators_grow_to_what_the_learner_takes() -> None:
    """By hand: 12 s of sampling a step against a learner of 3 s is a load of 4; 1.15 of that are 4.6, so 5 members."""
    sizes = {"generator": 1, "scorer": 1}
    made = sizer()
    assert run(made, sizes, even(20, learner_s=3.0, generator_s=12.0)) == 1
    assert sizes == {"generator": 5, "scorer": 1}
    assert made.floor() == (3.0, "learner")
    assert made.loads() == {"generator": 4.0, "scorer": pytest.approx(0.1 / 3)}


def test_the_slowest_stage_bounds_the_others() -> None:
    """One scorer of 6 s a step: the learner's 3 s do not matter, and 12 s of sampling are a load of 2."""
    sizes, made = {"generator": 1, "scorer": 1}, sizer()
    run(made, sizes, even(20, learner_s=3.0, generator_s=12.0, scorer_s=6.0))
    assert made.floor() == (6.0, "scorer")
    assert sizes == {"generator": 3, "scorer": 1}
    wider = sizer(scorers=(1, 4))
    sizes = {"generator": 1, "scorer": 1}
    run(wider, sizes, even(20, learner_s=3.0, generator_s=12.0, scorer_s=6.0))
    assert wider.floor() == (3.0, "learner") and sizes == {"generator": 5, "scorer": 3}


def test_too_many_shrink_later_than_too_few_grow() -> None:
    sizes = {"generator": 8, "scorer": 1}
    assert run(sizer(), dict(sizes), even(4, learner_s=3.0, generator_s=6.0)) == 0
    assert run(sizer(), sizes, even(5, learner_s=3.0, generator_s=6.0)) == 1
    assert sizes["generator"] == 3  # ceil(1.15 * 2)


def test_between_two_changes_it_rests() -> None:
    sizes, made = {"generator": 1, "scorer": 1}, sizer()
    run(made, sizes, even(2, learner_s=3.0, generator_s=6.0), step_s=1.0)
    assert sizes["generator"] == 3
    run(made, sizes, even(20, learner_s=3.0, generator_s=30.0), step_s=1.0, now_s=2.0)
    assert sizes["generator"] == 3
    run(made, sizes, even(1, learner_s=3.0, generator_s=30.0), now_s=REST_S + 2.0)
    assert sizes["generator"] == 12


def test_from_nothing_one_is_asked_for_at_once_and_without_work_all_go() -> None:
    made = sizer()
    asked = made.decide(0.0, {"generator": 0, "scorer": 1}, WORK)
    assert [(each.role, each.size) for each in asked] == [("generator", 1)]
    done = made.decide(0.1, {"generator": 5, "scorer": 1}, {"generator": False, "scorer": False})
    assert [(each.role, each.size) for each in done] == [("generator", 0)]


def test_where_nobody_came_the_next_attempt_waits_longer() -> None:
    made, now_s, waits = sizer(), 0.0, []
    for _ in range(6):
        made.refused("generator", now_s)
        wait_s = next(s for s in range(0, 1000, 10) if made.decide(now_s + s, {"generator": 0, "scorer": 1}, WORK))
        waits.append(wait_s / REST_S)
        now_s += wait_s
    assert waits == [1, 2, 4, 8, 8, 8] and LONGEST_BACK_OFF == 8
    made.joined("generator")
    made.refused("generator", now_s)
    assert made.decide(now_s + REST_S, {"generator": 0, "scorer": 1}, WORK)


@given(
    load=st.floats(0.05, 30.0),
    start=st.integers(1, 40),
    noise=st.lists(st.floats(0.9, 1.1), min_size=60, max_size=60),
)
def test_noise_of_a_tenth_leads_to_one_place_and_leaves_it_there(load: float, start: int, noise: list[float]) -> None:
    sizes, made = {"generator": start, "scorer": 1}, sizer((0, 40))
    steps = [StepTime(1.0, {"generator": load * factor, "scorer": 0.01}) for factor in noise]
    changes = run(made, sizes, steps, step_s=30.0)
    assert changes <= 3
    assert 0.9 * load <= sizes["generator"] <= 1.4 * 1.1 * load + 1


@given(load=st.floats(0.0, 200.0), size=st.integers(0, 50), least=st.integers(0, 10), more=st.integers(0, 10))
def test_the_bounds_hold_and_the_band_is_stable(load: float, size: int, least: int, more: int) -> None:
    bounds = Bounds(least, least + more)
    wanted = bounds.clip(wanted_members(load, size))
    assert bounds.least <= wanted <= bounds.most
    assert bounds.clip(wanted_members(load, wanted)) == wanted  # what was aimed at is not changed again
