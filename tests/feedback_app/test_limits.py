"""Rates, by listener and by address, and what stands in every header."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from feedback.web.guard import AddressHash, RateLimits
from feedback.web.page_routes import PAGES
from tests.feedback_app.small_app import SmallApp


def test_votes_of_one_listener_are_limited_and_others_go_on(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(limits__votes="2/hour")
    visitor, other = app.visitor(), app.visitor()
    for _ in range(2):
        assert visitor.vote(visitor.pair()).status_code == 200
    pair = visitor.pair()
    answer = visitor.vote(pair)
    assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 3601
    assert other.vote(other.pair()).status_code == 200
    assert len(list(app.log.votes())) == 3


def test_pairs_asked_for_by_one_listener_are_limited(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(limits__prompts="1/hour")
    visitor = app.visitor()
    visitor.pair()
    assert visitor.request("POST", "/api/pair", json={"prompt": None}).status_code == 429


def test_one_address_may_not_send_too_much_nor_be_too_many(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(limits__requests="8/hour", limits__listeners="2/hour", proxies=1)

    def ask(address: str) -> int:
        app.client.cookies.clear()
        return app.client.get("/api/session", headers={"x-forwarded-for": f"1.2.3.4, {address}"}).status_code

    assert [ask("10.0.0.1") for _ in range(4)] == [200, 200, 429, 429]
    assert ask("10.0.0.2") == 200
    assert app.client.get("/", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 200
    for _ in range(8):
        last = app.client.get("/", headers={"x-forwarded-for": "10.0.0.1"})
    assert last.status_code == 429 and last.headers["content-security-policy"] and "error" in last.json()


def test_a_rate_holds_for_every_stretch_of_its_length_and_the_wait_is_true() -> None:
    now = [1000.0]
    limits, taken = RateLimits(lambda: now[0]), []
    for _ in range(4000):
        now[0] += 0.1
        wait_s = limits.wait_s("5/10 second;20/minute", "ann")
        if wait_s == 0:
            taken.append(now[0])
            continue
        assert 0 < wait_s <= 120
    for start in taken:
        for length_s, most in ((10, 5), (60, 20)):
            within = sum(start <= moment < start + length_s for moment in taken)
            assert within <= 2 * most  # what two counters can promise; on average it is the rate
    assert len(taken) <= 20 * (400 / 60 + 1)
    assert limits.wait_s("5/10 second", "bob") == 0  # each for themselves


@pytest.mark.parametrize("before", [0, 1, 3, 5])
def test_who_waits_as_long_as_told_is_let_in(before: int) -> None:
    now = [1000.0]
    limits = RateLimits(lambda: now[0])
    for _ in range(before):
        assert limits.wait_s("5/minute", "ann") == 0
    now[0] += 65
    while not (wait_s := limits.wait_s("5/minute", "ann")):
        now[0] += 0.5
    now[0] += wait_s - 1.01
    assert limits.wait_s("5/minute", "ann") > 0
    now[0] += 1.01
    assert limits.wait_s("5/minute", "ann") == 0


def test_who_does_not_come_back_is_forgotten() -> None:
    now = [1000.0]
    limits = RateLimits(lambda: now[0])
    for number in range(50):
        limits.wait_s("5/minute", str(number))
    now[0] += 300
    limits.wait_s("5/minute", "ann")
    assert len(limits) == 1


def test_an_address_is_what_the_trusted_proxy_says() -> None:
    def scope(forwarded: str) -> dict:
        return {"type": "http", "client": ("9.9.9.9", 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}

    direct, one, two = AddressHash(0), AddressHash(1), AddressHash(2)
    assert direct(scope("1.1.1.1")) == direct(scope("2.2.2.2"))
    assert one(scope("1.1.1.1, 5.5.5.5")) == one(scope("2.2.2.2, 5.5.5.5")) != one(scope("5.5.5.5, 1.1.1.1"))
    assert two(scope("7.7.7.7, 5.5.5.5")) == two(scope("8.8.8.8,7.7.7.7, 6.6.6.6"))
    assert "1.1.1.1" not in one(scope("1.1.1.1")) and AddressHash(1)(scope("1.1.1.1")) != one(scope("1.1.1.1"))


@pytest.mark.parametrize("path", ["/", "/page/style.css", "/api/session", "/nowhere", "/api/votes", "/health"])
def test_every_answer_has_the_security_headers(shared: SmallApp, path: str) -> None:
    answer = shared.client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == ("no-cache" if path in ("/", "/page/style.css") else "no-store")


@pytest.mark.parametrize("page", ["index.html", "study.html", "admin.html"])
def test_pages_need_nothing_that_the_policy_forbids(page: str) -> None:
    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = dict(attrs)
            assert tag != "style" and "style" not in names, tag
            assert not any(name.startswith("on") for name in names), tag
            assert tag != "script" or names.get("src", "").startswith("/page/"), "inline script"
            for name in ("src", "href"):
                assert not (names.get(name) or "").startswith(("http", "//")), names

    Check().feed((PAGES / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "path", ["/page/../main.py", "/page/%2e%2e/main.py", "/page/index.html", "/page/.", "/clips/../../key", "/study/x"]
)
def test_only_the_pages_own_files_are_served(shared: SmallApp, path: str) -> None:
    answer = shared.visitor().request("GET", path)
    assert answer.status_code == 404 and set(answer.json()) == {"error"}


def test_an_unknown_clip_is_not_found(shared: SmallApp) -> None:
    visitor = shared.visitor()
    for name in ("0" * 64, "key", "..%2fkey"):
        assert visitor.request("GET", f"/clips/{name}.flac").status_code in (404, 422)
