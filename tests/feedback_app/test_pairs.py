"""How a listener comes to a pair, and keeps it over reloads and restarts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RunFailed
from feedback.clip_maker import ClipMaker
from feedback.maker_actors import MakerActor
from policy.port import SamplingSettings
from tests.feedback_app.small_app import SmallApp, small_app, wait_until
from tests.system.tiny_world import TinyWorld


def state_of(visitor) -> dict:  # type: ignore[no-untyped-def]
    return visitor.request("GET", "/api/pair").json()


def test_a_reload_brings_the_same_pair(shared: SmallApp) -> None:
    visitor = shared.visitor()
    assert state_of(visitor)["state"] == "none"
    pair = visitor.pair("a tune of my own")
    assert [state_of(visitor)["pair"] for _ in range(3)] == [pair] * 3
    for side in ("a", "b"):
        sound = visitor.request("GET", pair[side]["url"])
        assert sound.status_code == 200 and sound.content.startswith(b"fLaC")
        assert sound.headers["content-type"] == "audio/flac"
        part = visitor.request("GET", pair[side]["url"], headers={"range": "bytes=4-9"})
        assert part.status_code == 206 and part.content == sound.content[4:10]


def test_a_restart_in_the_middle_of_a_pair_loses_nothing(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    visitor = app.visitor()
    pair = visitor.pair("kept over a restart")
    app = app.restarted()
    visitor.move_to(app)
    assert state_of(visitor)["pair"] == pair
    assert visitor.vote(pair).status_code == 200
    assert len(list(app.log.votes())) == 1
    app.close()


def test_a_pair_answered_after_a_restart_is_not_offered_to_its_listener_again(
    make_app: Callable[..., SmallApp],
) -> None:
    app = make_app(pool__pairs=2, pool__listeners=3)
    app.await_pool()
    visitor = app.visitor()
    first = visitor.pair()
    app = app.restarted()  # the pair before the visitor is unanswered, so it is in the pool again
    visitor.move_to(app)
    assert visitor.vote(first).status_code == 200
    second = visitor.pair()
    assert second["pair_id"] != first["pair_id"] and visitor.vote(second).status_code == 200
    app.close()


def test_a_restarted_app_offers_the_pairs_that_are_in_the_log(make_app: Callable[..., SmallApp]) -> None:
    app = make_app()
    app.await_pool()
    made = {pair.pair_id for pair in app.log.pairs()}
    app = app.restarted()
    app.makers.gate.clear()  # nothing new is made
    visitor = app.visitor()
    assert visitor.pair()["pair_id"] in made
    app.makers.gate.set()
    app.close()


def test_a_suggestion_is_there_at_once_and_a_pair_has_several_listeners(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__listeners=2, pool__pairs=1)
    app.await_pool()
    app.makers.gate.clear()
    one, other, third = (app.visitor() for _ in range(3))
    prompt = one.request("GET", "/api/suggestions").json()["prompts"][0]
    answers = [who.request("POST", "/api/pair", json={"prompt": prompt}).json() for who in (one, other, third)]
    assert [answer["state"] for answer in answers] == ["ready", "ready", "queued"]
    assert answers[0]["pair"] == answers[1]["pair"]
    assert answers[0]["prompt"] == prompt
    app.makers.gate.set()


def test_progress_tells_stage_and_place(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1, maker__queue=2)
    app.await_pool()
    app.makers.gate.clear()
    first, second, third, fourth = (app.visitor() for _ in range(4))
    for number, who in enumerate((first, second, third)):
        assert who.request("POST", "/api/pair", json={"prompt": f"tune {number}"}).status_code == 200
        wait_until(lambda: state_of(first)["state"] == "sampling")
    assert (state_of(second)["ahead"], state_of(third)["ahead"]) == (0, 1)
    answer = fourth.request("POST", "/api/pair", json={"prompt": "tune 4"})
    assert answer.status_code == 503 and "waiting" in answer.json()["error"] and answer.headers["retry-after"]
    app.makers.gate.set()
    wait_until(lambda: state_of(third)["state"] == "ready")
    assert state_of(third)["pair"]["prompt"] == "tune 2"


def test_a_model_that_is_down_says_so_and_comes_back(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1)
    app.await_pool()
    voter = app.visitor()
    pair = voter.pair()
    app.await_pool()
    app.makers.problem = RunFailed("clip maker: gave no answer")
    visitor = app.visitor()
    assert visitor.request("POST", "/api/pair", json={"prompt": "a tune"}).status_code == 200
    wait_until(lambda: state_of(visitor)["state"] == "failed")
    assert "not answering" in state_of(visitor)["message"]
    assert app.client.get("/health").json() == {"status": "ok", "makers_up": False}
    assert voter.vote(pair).status_code == 200  # what was made before can still be answered
    app.makers.problem = None
    assert visitor.pair("another tune")["prompt"] == "another tune"
    assert app.client.get("/health").json() == {"status": "ok", "makers_up": True}


def test_a_pair_that_takes_too_long_is_given_up(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1, maker__deadline_s=0.5, gated=True)
    visitors = [app.visitor() for _ in range(2)]
    for visitor in visitors:
        visitor.request("POST", "/api/pair", json={"prompt": "a tune"})
    for visitor in visitors:
        wait_until(lambda: state_of(visitor)["state"] == "failed")  # noqa: B023
    app.makers.gate.set()


def test_a_log_that_takes_no_clips_is_told_apart_from_the_model(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1)
    app.await_pool()
    visitor = app.visitor()
    with sqlite3.connect(app.folder / "preferences.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        visitor.request("POST", "/api/pair", json={"prompt": "a tune"})
        wait_until(lambda: state_of(visitor)["state"] == "failed")
        other.execute("ROLLBACK")
    assert "cannot be saved" in state_of(visitor)["message"]


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("x" * 301, 422),
        ("x" * 20_000, 422),
        ("   \n ", 422),
        ("", 422),
        ("?!", 422),
        ("a\0b", 422),
        ("a\u202eb", 422),
        ("a forbidden word", 422),
        ("a ＦＯＲＢÏDDEN word", 422),
        ("forbiddenly good", 200),
        ("  une  valse\tlente, ça va  ", 200),
        ("чарівний вальс 🎻", 200),
    ],
)
def test_prompts(blocking: SmallApp, prompt: str, status: int) -> None:
    answer = blocking.visitor().request("POST", "/api/pair", json={"prompt": prompt})
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json()["prompt"] == " ".join(prompt.split())
    else:
        assert answer.json()["error"]


@pytest.fixture(scope="module")
def blocking(world, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("blocking")
    (folder / "words.txt").write_text("# words\nforbidden\n")
    app = small_app(folder, world, prompts__blocklist=folder / "words.txt", maker__queue=100)
    yield app
    app.close()


def test_lone_surrogates_are_refused(shared: SmallApp) -> None:
    content = rb'{"prompt": "a \ud800 tune"}'
    answer = shared.visitor().request(
        "POST", "/api/pair", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422 and answer.json()["error"]


def test_nothing_is_made_before_consent(shared: SmallApp) -> None:
    visitor = shared.visitor(consent=None)
    answer = visitor.request("POST", "/api/pair", json={"prompt": None})
    assert answer.status_code == 403 and "consent" in answer.json()["error"]


def test_a_pair_made_on_demand_serves_whoever_else_waits_for_any(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=1, pool__listeners=3, gated=True)
    visitors = [app.visitor() for _ in range(3)]
    for visitor in visitors:
        assert visitor.request("POST", "/api/pair", json={"prompt": None}).json()["state"] == "queued"
    app.makers.gate.set()
    for visitor in visitors:
        wait_until(lambda: state_of(visitor)["state"] == "ready")  # noqa: B023
    assert len({state_of(visitor)["pair"]["pair_id"] for visitor in visitors}) == 1


def test_a_maker_has_played_a_clip_before_a_listener_waits_for_one(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []
    render = ClipMaker.render
    monkeypatch.setattr(os, "nice", lambda by: 0)
    monkeypatch.setattr(
        ClipMaker, "render", lambda self, prompt, *rest: played.append(prompt) or render(self, prompt, *rest)
    )
    MakerActor(
        policies={"base": str(world.folder / "policy")},
        codec_dir=str(world.folder / "codec"),
        seconds=0.4,
        sampling=SamplingSettings(),
        loudness_dbfs=None,
        threads=1,
    )
    assert played == [""]
