"""What counts as a vote: of this listener's own pair, after both clips were heard, once."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from feedback.records import Choice
from tests.feedback_app.small_app import GOOD, OTHER, SECONDS, SmallApp, everything, heard, vote_body

HEX = "0" * 32


def test_a_vote_is_stored_as_it_was_meant(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair("an own description")
    parts = {"clip_id": pair["a"]["clip_id"], "played": [[0.5, 0.8], [0.1, 0.6], [0.6, 1.0]]}
    answer = visitor.vote(pair, "b", a=parts)
    assert answer.status_code == 200, answer.text
    (vote,) = shared.log.votes(
        listener_id=next(v.listener_id for v in shared.log.votes() if v.pair_id == pair["pair_id"])
    )
    assert (vote.pair_id, vote.choice, vote.vote_id) == (pair["pair_id"], Choice.B, answer.json()["record_id"])
    assert vote.played_a.ranges == ((0.1, 1.0),)
    assert vote.played_b.ranges == ((0.0, SECONDS),)
    stored = shared.log.pair(pair["pair_id"])
    assert (stored.clip_a, stored.clip_b) == (pair["a"]["clip_id"], pair["b"]["clip_id"])
    assert {shared.log.clip(clip).policy for clip in (stored.clip_a, stored.clip_b)} == {GOOD, OTHER}
    assert stored.asked_by == vote.listener_id


@pytest.mark.parametrize("choice", list(Choice))
def test_every_choice_is_taken(shared: SmallApp, choice: Choice) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    assert visitor.vote(pair, choice.value).status_code == 200
    assert [vote.choice for vote in shared.log.votes() if vote.pair_id == pair["pair_id"]][-1] is choice
    assert visitor.request("GET", "/api/pair").json()["state"] == "none"


def refusals(pair: dict) -> list[tuple[str, int, dict]]:
    """What each breach changes in a good vote, and what it is answered with."""
    whole = heard(pair)
    other = {"clip_id": "f" * 64, "played": [[0, SECONDS]]}

    def played(*ranges: object) -> dict:
        return {"clip_id": pair["a"]["clip_id"], "played": list(ranges)}

    return [
        ("nothing heard", 422, {"a": played()}),
        ("one clip heard too little", 422, {"a": played([0, 0.3])}),
        ("heard twice is heard once", 422, {"a": played([0, 0.3], [0.0, 0.3], [0.1, 0.3])}),
        ("longer than the clip", 422, {"a": played([0, SECONDS + 5])}),
        ("before the clip", 422, {"a": played([-0.9, 0.9])}),
        ("backwards", 422, {"a": played([0.9, 0.1])}),
        ("too many stretches", 422, {"a": played(*[[0, 1]] * 201)}),
        ("no number", 422, {"a": played(["0", "x"])}),
        ("a foreign clip", 422, {"a": other}),
        ("clips swapped", 422, {"a": whole["b"], "b": whole["a"]}),
        ("an unknown pair", 404, {"pair_id": HEX}),
        ("an id of another shape", 422, {"vote_id": "1"}),
        ("an unknown choice", 422, {"choice": "both"}),
        ("a field too many", 422, {"policy": "x"}),
        ("a nul character", 422, {"pair_id": "\0" * 32}),
    ]


def test_breaches_are_refused_with_a_reason_and_nothing_is_stored(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    before = everything(shared.log)
    for name, status, changes in refusals(pair):
        answer = visitor.vote(pair, **changes)
        assert answer.status_code == status, f"{name}: {answer.status_code} {answer.text}"
        assert set(answer.json()) == {"error"} and answer.json()["error"], name
    assert everything(shared.log) == before
    assert visitor.vote(pair).status_code == 200  # and the pair can still be voted on


def test_more_cannot_be_heard_than_time_has_passed(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    shared.clock.now += 0.5
    answer = visitor.request("POST", "/api/votes", json=vote_body(pair))  # claims 2 s
    assert answer.status_code == 422 and "since the pair was shown" in answer.json()["error"]
    shared.clock.now += 0.6
    assert visitor.request("POST", "/api/votes", json=vote_body(pair)).status_code == 200


def test_a_pair_of_another_listener_is_refused(shared: SmallApp) -> None:
    pair = shared.visitor().pair("only mine")
    thief = shared.visitor()
    before = everything(shared.log)
    assert thief.vote(pair).status_code == 409
    thief.pair()
    assert thief.vote(pair).status_code == 409
    assert everything(shared.log)[0] == before[0]


def test_the_same_vote_again_is_acknowledged_and_counts_once(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    kept = dict(visitor.cookies)
    body = vote_body(pair)
    shared.clock.now += 2
    first = visitor.request("POST", "/api/votes", json=body)
    again = visitor.request("POST", "/api/votes", json=body)  # its cookie is gone with the first answer
    visitor.cookies = kept
    once_more = visitor.request("POST", "/api/votes", json=body)  # the first answer never arrived
    assert first.status_code == again.status_code == once_more.status_code == 200
    assert first.json() == again.json() == once_more.json()
    assert [vote.vote_id for vote in shared.log.votes()].count(body["vote_id"]) == 1


def test_a_second_vote_on_a_pair_is_refused(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    kept = dict(visitor.cookies)
    assert visitor.vote(pair, "a").status_code == 200
    assert visitor.vote(pair, "b").status_code == 409
    visitor.cookies = kept
    assert visitor.vote(pair, "b").status_code == 409
    assert [vote.choice for vote in shared.log.votes() if vote.pair_id == pair["pair_id"]][-1] is Choice.A
    assert visitor.request("GET", "/api/pair").json()["state"] == "none"  # what is answered is not shown again


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"vote_id": "\xff\xfe"}', "application/json", 400),
        (b"{", "application/json", 422),
        (b'{"vote_id": NaN}', "application/json", 422),
        (b'"\\ud800"', "application/json", 422),
        (b"[" * 20_000, "application/json", 400),
        (b"x" * 40_000, "application/json", 413),
        (b"", "application/json", 422),
        (b"vote_id=1", "application/x-www-form-urlencoded", 422),
    ],
)
def test_bodies_that_are_no_votes(shared: SmallApp, content: bytes, kind: str, status: int) -> None:
    answer = shared.visitor().request("POST", "/api/votes", content=content, headers={"content-type": kind})
    assert answer.status_code in (status, 422 if status == 400 else status), answer.text
    assert set(answer.json()) == {"error"}


def test_a_giant_body_of_unknown_length_is_cut_off(shared: SmallApp) -> None:
    sent = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal sent
        while sent < 200:
            sent += 1
            yield b" " * 8192

    visitor = shared.visitor()
    answer = visitor.request("POST", "/api/votes", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413 and set(answer.json()) == {"error"}


def test_infinite_ranges_are_refused(shared: SmallApp) -> None:
    visitor = shared.visitor()
    body = json.dumps(vote_body(visitor.pair())).replace("[[0.0, 1.0]]", "[[0.0, Infinity]]")
    answer = visitor.request("POST", "/api/votes", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_while_the_log_is_locked_votes_may_be_sent_again(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    visitor = app.visitor()
    pair = visitor.pair()
    body = vote_body(pair)
    app.clock.now += 2
    with sqlite3.connect(app.folder / "preferences.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = visitor.request("POST", "/api/votes", json=body)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert set(answer.json()) == {"error"}
        other.execute("ROLLBACK")
    assert visitor.request("POST", "/api/votes", json=body).status_code == 200
    assert [vote.vote_id for vote in app.log.votes()] == [body["vote_id"]]


@contextmanager
def no_room(app: SmallApp) -> Iterator[None]:
    """No file of this process may become longer than the log's write-ahead file is: every write to it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((app.folder / "preferences.sqlite-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_votes_are_not_acknowledged_and_may_be_sent_again(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1)
    visitor = app.visitor()
    pair = visitor.pair()
    body = vote_body(pair)
    app.clock.now += 2
    app.await_pool()
    with no_room(app):
        answer = visitor.request("POST", "/api/votes", json=body)
        assert answer.status_code == 503 and set(answer.json()) == {"error"}
        assert "/" not in answer.json()["error"]  # no path of the server's
    assert list(app.log.votes()) == []
    assert visitor.request("POST", "/api/votes", json=body).status_code == 200
    assert [vote.vote_id for vote in app.log.votes()] == [body["vote_id"]]


@pytest.mark.parametrize("was_stored", [True, False], ids=["stored", "not stored"])
def test_a_restart_in_the_middle_of_a_vote(make_app: Callable[..., SmallApp], was_stored: bool) -> None:
    app = make_app()
    visitor = app.visitor()
    body, before = vote_body(visitor.pair()), dict(visitor.cookies)
    app.clock.now += 2
    if was_stored:
        visitor.request("POST", "/api/votes", json=body)
        visitor.cookies = before  # the answer never arrived
    app = app.restarted()
    visitor.move_to(app)
    answers = [visitor.request("POST", "/api/votes", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200] and answers[0].json() == answers[1].json()
    assert [vote.vote_id for vote in app.log.votes()] == [body["vote_id"]]
    app.close()
