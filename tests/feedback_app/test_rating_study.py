"""Side-by-side evaluation: who rates what, in which order, and that it goes on after a restart."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from configs.errors import UserError
from feedback.rating_desk import LEASE_S, RatingDesk
from feedback.records import Pair
from tests.feedback_app.small_app import SECONDS, SmallApp, Visitor, heard


def desk_of(items: int, raters: int, clock: Callable[[], float] = lambda: 0.0) -> RatingDesk:
    desk = RatingDesk(raters, random.Random(0), clock)
    for item in range(items):
        one, other = (
            Pair(f"{item}{order}", "p", f"{item}{first}", f"{item}{second}", "s", datetime.now(UTC))
            for order, first, second in (("f", "x", "y"), ("b", "y", "x"))
        )
        desk.add(one, other)
    return desk


@pytest.mark.parametrize(("items", "raters", "listeners"), [(10, 3, 7), (5, 4, 4), (7, 1, 3)])
def test_every_pair_gets_its_raters_evenly_and_each_listener_rates_it_once(
    items: int, raters: int, listeners: int
) -> None:
    desk, seen, orders = desk_of(items, raters), Counter(), Counter()
    turns = random.Random(1)
    while True:
        who = f"listener {turns.randrange(listeners)}"
        pair = desk.draw(who)
        assert desk.draw(who) == pair  # asked again, it is the same
        if pair is None:
            if all(desk.draw(f"listener {n}") is None for n in range(listeners)):
                break
            continue
        seen[who, pair.pair_id[:-1]] += 1
        orders[pair.pair_id] += 1
        desk.rated(who, pair.pair_id)
        filled = desk.ratings()
        assert max(filled) - min(filled) <= 2
    assert desk.ratings() == [raters] * items and desk.is_full
    assert max(seen.values()) == 1
    for item in range(items):
        assert abs(orders[f"{item}f"] - orders[f"{item}b"]) <= 1
    assert abs(sum(count * (1 if pair.endswith("f") else -1) for pair, count in orders.items())) <= 1


def test_a_pair_that_is_not_rated_in_time_goes_to_somebody_else() -> None:
    now = [0.0]
    desk = desk_of(1, 1, lambda: now[0])
    assert desk.draw("one") is not None and desk.draw("other") is None
    assert desk.standing("other").open == 0
    now[0] = LEASE_S + 1
    assert desk.draw("other") is not None and desk.draw("one") is None


def test_who_is_deleted_makes_room() -> None:
    desk = desk_of(1, 1)
    pair = desk.draw("one")
    assert pair is not None
    desk.rated("one", pair.pair_id)
    assert desk.draw("other") is None
    desk.forget("one")
    assert desk.draw("other") is not None


def rate_all(visitor: Visitor) -> list[dict[str, Any]]:
    """Rates until nothing is left -> the pairs."""
    rated = []
    for _ in range(3000):
        study = visitor.request("POST", "/api/studies/trial/pair").json()
        if study["pair"]:
            assert visitor.request("GET", "/api/studies/trial").json()["pair"] == study["pair"]
            answer = rate(visitor, study["pair"])
            assert answer.status_code == 200, answer.text
            rated.append(study["pair"])
        elif study["state"] == "done":
            return rated
    raise AssertionError(study)


def rate(visitor: Visitor, pair: dict[str, Any], **changes: Any) -> Any:
    visitor.app.clock.now += 2 * SECONDS
    body = {"rating_id": f"{random.getrandbits(128):032x}", "pair_id": pair["pair_id"], "score_a": 2, "score_b": 4}
    return visitor.request("POST", "/api/studies/trial/ratings", json=body | heard(pair) | changes)


def test_a_study_over_a_restart(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(study__name="trial", study__count=3, study__raters=2, pool__pairs=1)
    assert len(rate_all(app.visitor())) == 3
    pairs = {pair.pair_id for pair in app.log.pairs(study="trial")}
    assert len(pairs) == 6  # both orders
    app = app.restarted()
    late = app.visitor()
    assert len(rate_all(late)) == 3
    assert late.request("GET", "/api/studies/trial").json() == {"state": "done", "rated": 3, "open": 0, "pair": None}
    assert rate_all(app.visitor()) == []  # every pair has its raters
    assert {pair.pair_id for pair in app.log.pairs(study="trial")} == pairs
    by_clips = Counter(
        frozenset(app.log.pair(r.pair_id).__dict__[side] for side in ("clip_a", "clip_b")) for r in app.log.ratings()
    )
    assert sorted(by_clips.values()) == [2, 2, 2]
    shown = Counter(rating.pair_id for rating in app.log.ratings())
    assert set(shown.values()) == {1}  # each order once
    summary = app.client.get("/api/admin/summary", headers={"authorization": "Bearer a-token-for-the-tests"}).json()
    assert summary["study_raters"] == {"2": 3} and {row["ratings"] for row in summary["study_means"]} == {6}
    app.close()


def test_a_study_of_other_policies_may_not_go_on_under_the_same_name(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(study__name="trial", study__count=2, pool__pairs=1)
    rate_all(app.visitor())
    app.words = [word for word in app.words if not word.startswith("study.seed")] + ["study.seed=5"]
    with pytest.raises(UserError, match=r"study\.name: got 'trial'"):
        app.restarted()


def test_ratings_that_are_refused(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(study__name="trial", study__count=2, pool__pairs=1)
    visitor, other = app.visitor(), app.visitor()
    pair = None
    while pair is None:
        pair = visitor.request("POST", "/api/studies/trial/pair").json()["pair"]
    for changes in ({"score_a": 0}, {"score_b": 6}, {"score_a": 2.5}, {"score_a": "3"}, {"a": heard(pair)["b"]}):
        assert rate(visitor, pair, **changes).status_code == 422, changes
    assert rate(other, pair).status_code == 409
    assert other.request("POST", "/api/studies/other/pair").status_code == 404
    free = visitor.pair()
    assert rate(visitor, free).status_code == 409
    assert visitor.vote(pair).status_code == 409
    assert list(app.log.ratings()) == []
    assert rate(visitor, pair).status_code == 200
    assert rate(visitor, pair).status_code == 409


def test_the_same_rating_again_is_acknowledged_and_counts_once(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(study__name="trial", study__count=1, pool__pairs=1)
    visitor, pair = app.visitor(), None
    while pair is None:
        pair = visitor.request("POST", "/api/studies/trial/pair").json()["pair"]
    kept = dict(visitor.cookies)
    first = rate(visitor, pair, rating_id="1" * 32)
    again = rate(visitor, pair, rating_id="1" * 32)
    app = app.restarted()
    visitor.move_to(app)
    visitor.cookies = kept  # the first answer never arrived
    once_more = rate(visitor, pair, rating_id="1" * 32)
    assert first.status_code == again.status_code == once_more.status_code == 200
    assert first.json() == again.json() == once_more.json()
    assert [rating.rating_id for rating in app.log.ratings()] == ["1" * 32]
    app.close()
