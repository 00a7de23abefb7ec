"""Cookies and tokens: forged, foreign, stale, missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from feedback.records import Consent
from feedback.sessions import KEY_BYTES, NoSession, Offer, Sessions, load_key
from tests.feedback_app.small_app import SmallApp, everything, vote_body


def test_cookies_are_out_of_reach_for_scripts_and_other_sites(shared: SmallApp) -> None:
    line = shared.client.get("/api/session").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in line.split(";")}
    assert "Secure" not in line


def test_by_https_cookies_are_secure_and_bound_to_the_host(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(https="true")
    answer = app.client.get("/api/session")
    assert answer.headers["set-cookie"].startswith("__Host-listener=") and "Secure" in answer.headers["set-cookie"]
    assert "max-age" in answer.headers["strict-transport-security"]


def test_a_changing_request_needs_the_token_of_its_own_session(shared: SmallApp) -> None:
    visitor, stranger = shared.visitor(), shared.visitor()
    before = everything(shared.log)
    pair = visitor.pair()
    for token in ("", "x", stranger.token, visitor.token[:-1], "ü".encode()):
        answer = visitor.request("POST", "/api/votes", json=vote_body(pair), headers={"x-csrf-token": token})
        assert answer.status_code == 403 and "x-csrf-token" in answer.json()["error"]
        assert visitor.request("DELETE", "/api/votes", headers={"x-csrf-token": token}).status_code == 403
    assert everything(shared.log)[0] == before[0]


def test_without_a_cookie_nothing_is_told_or_taken(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    for cookies in ({}, {"listener": "x"}, {"listener": visitor.cookies["listener"][:-2] + "xx"}):
        visitor.cookies = dict(cookies)
        assert visitor.request("GET", "/api/pair").status_code == 401
        assert visitor.request("GET", pair["a"]["url"]).status_code == 401
        answer = visitor.request("POST", "/api/votes", json=vote_body(pair))
        assert answer.status_code == 401 and set(answer.json()) == {"error"}


def test_a_stale_session_stores_nothing_and_a_new_one_begins(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(session_days=1)
    visitor = app.visitor()
    pair = visitor.pair()
    app.clock.now += 86400 + 1
    assert visitor.vote(pair).status_code == 401
    assert everything(app.log)[0] == []
    old = visitor.cookies["listener"]
    assert visitor.request("GET", "/api/session").json()["consent"] is None
    assert visitor.cookies["listener"] != old


def test_who_comes_back_in_time_is_remembered_for_longer(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(session_days=2)
    visitor = app.visitor(consent="personal")
    for _ in range(4):
        app.clock.now += 1.5 * 86400
        assert visitor.request("GET", "/api/session").json()["consent"] == "personal"


def test_an_offer_is_bound_to_its_listener(shared: SmallApp) -> None:
    visitor, thief = shared.visitor(), shared.visitor()
    pair = visitor.pair("mine alone")
    thief.cookies["pair"] = visitor.cookies["pair"]
    assert thief.request("GET", "/api/pair").json()["state"] == "none"
    assert thief.vote(pair).status_code == 409


def test_the_notice_says_who_runs_the_page(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(operator="Ann <b>Example</b>, ann@example.org")
    told = app.client.get("/api/session").json()
    assert told["operator"] == "Ann <b>Example</b>, ann@example.org" and told["consent"] is None


def test_consent_can_be_changed_and_everything_deleted(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    visitor, other = app.visitor("count"), app.visitor()
    assert other.vote(other.pair()).status_code == 200
    own = visitor.pair("words of my own")
    assert visitor.vote(own).status_code == 200
    assert visitor.request("PUT", "/api/consent", json={"consent": "personal"}).status_code == 200
    assert Consent.PERSONAL in {listener.consent for listener in app.log.listeners()}
    kept = dict(visitor.cookies)
    answer = visitor.request("DELETE", "/api/votes")
    assert answer.json() == {"votes": 1, "ratings": 0}
    assert [vote.pair_id for vote in app.log.votes()] != [] and own["pair_id"] not in {
        p.pair_id for p in app.log.pairs()
    }
    assert "words of my own" not in {clip.prompt for clip in app.log.clips()}
    visitor.cookies = dict(kept)  # another tab, which has not heard of it
    assert visitor.request("POST", "/api/pair", json={"prompt": None}).status_code == 401
    assert visitor.vote(own).status_code in (404, 410)
    answer = visitor.request("GET", "/api/session")
    assert answer.json()["consent"] is None and visitor.cookies["listener"] != kept["listener"]


def test_no_address_is_stored(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(proxies=1)
    visitor = app.visitor()
    headers = {"x-forwarded-for": "203.0.113.77"}
    visitor.request("GET", "/api/pair", headers=headers)
    assert visitor.vote(visitor.pair()).status_code == 200
    app.close()
    stored = b"".join(path.read_bytes() for path in app.folder.rglob("*") if path.is_file())
    assert b"203.0.113" not in stored and b"testclient" not in stored


def test_sealed_values_of_one_kind_do_not_open_as_another() -> None:
    sessions = Sessions(b"k" * 32, 100.0, lambda: 0.0)
    session = sessions.new()
    with pytest.raises(NoSession):
        sessions.open_offer(sessions.seal(session))
    with pytest.raises(NoSession):
        sessions.open(sessions.seal_offer(Offer("p", "l", "", 0.0)))
    with pytest.raises(NoSession):
        Sessions(b"q" * 32, 100.0, lambda: 0.0).open(sessions.seal(session))
    assert sessions.open(sessions.seal(session)) == session


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key = load_key(tmp_path / "new")
    assert len(key) == KEY_BYTES and load_key(tmp_path / "new") == key
    assert (tmp_path / "new" / "key").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key"]
