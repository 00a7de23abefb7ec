"""What only who runs the app may see."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from feedback.records import Choice
from feedback.summary import agreement
from rewards.preference_pairs import SCHEMA
from tests.feedback_app.small_app import ADMIN_TOKEN, GOOD, OTHER, SmallApp

PATHS = ("/api/admin/summary", "/api/admin/votes.parquet", "/api/admin/ratings.parquet")
BEARER = {"authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.mark.parametrize("path", PATHS)
def test_nothing_without_the_token(shared: SmallApp, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": ADMIN_TOKEN}, {"cookie": "admin=x"}):
        shared.client.cookies.clear()
        answer = shared.client.get(path, headers=headers)
        assert answer.status_code == 401 and set(answer.json()) == {"error"}


def test_without_a_token_in_the_environment_there_are_no_admin_pages(make_app: Callable[..., SmallApp]) -> None:
    shared = make_app()
    shared.app.state.parts = replace(shared.app.state.parts, admin_token="")
    for path in (*PATHS, "/admin"):
        assert shared.client.get(path, headers=BEARER).status_code == 404
    assert shared.client.post("/api/admin/login", json={"token": ""}).status_code == 404


def test_a_login_leaves_a_strict_cookie_that_ends(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    assert app.client.post("/api/admin/login", json={"token": "wrong"}).status_code == 401
    answer = app.client.post("/api/admin/login", json={"token": ADMIN_TOKEN})
    assert answer.status_code == 200 and "SameSite=strict" in answer.headers["set-cookie"]
    cookie = {"cookie": f"admin={answer.cookies['admin']}"}
    app.client.cookies.clear()
    assert app.client.get(PATHS[0], headers=cookie).status_code == 200
    app.clock.now += 8 * 3600 + 1
    assert app.client.get(PATHS[0], headers=cookie).status_code == 401


def test_tokens_cannot_be_guessed_at_speed(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    codes = [app.client.post("/api/admin/login", json={"token": str(n)}).status_code for n in range(12)]
    assert codes == [401] * 10 + [429] * 2


def test_figures_and_tables_agree_with_the_log(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__listeners=1)
    one, other, silent = app.visitor("train"), app.visitor("personal"), app.visitor("count")
    for visitor, choice in ((one, "a"), (one, "tie"), (other, "b"), (silent, "neither")):
        assert visitor.vote(visitor.pair(), choice).status_code == 200
    found = app.client.get(PATHS[0], headers=BEARER).json()
    assert (found["votes"], found["listeners"], found["choices"]) == (4, 3, {"a": 1, "tie": 1, "b": 1, "neither": 1})
    assert {row["policy"] for row in found["preferred"]} == {GOOD, OTHER}
    for row in found["preferred"]:
        assert row["wins"] + row["losses"] == 2 and row["ties"] == 1
    answer = app.client.get(PATHS[1], headers=BEARER)
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.schema.equals(SCHEMA, check_metadata=False)
    assert sorted(table["choice"].to_pylist()) == ["a", "b", "tie"]  # who only counts teaches nothing
    assert [path.name for path in app.folder.glob(".*.parquet")] == []


def test_agreement_is_that_of_trophies() -> None:
    votes = [
        ("p", Choice.A),
        ("p", Choice.A),
        ("p", Choice.B),
        ("p", Choice.TIE),
        ("q", Choice.B),
        ("r", Choice.NEITHER),
    ]
    assert agreement(votes) == (1, 3)
    assert agreement([]) == (0, 0)


def test_metrics_are_for_this_machine_or_with_the_token(shared: SmallApp) -> None:
    assert shared.client.get("/metrics").status_code == 401  # the test client is no address of this machine
    text = shared.client.get("/metrics", headers=BEARER).text
    for name in ("votes_total", "pool_pairs", "pair_wait_seconds_bucket", "refused_total", "makers_up"):
        assert f"musicrl_feedback_{name}" in text
