"""Nothing that reaches a listener says what made a clip."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import soundfile

from tests.feedback_app.small_app import GOOD, OTHER, SmallApp, heard, wait_until


def record(visitor: Any) -> list[tuple[str, Any]]:
    """Keeps every answer that the visitor gets from now on."""
    answers: list[tuple[str, Any]] = []
    ask = visitor.request

    def request(method: str, path: str, **options: Any) -> Any:
        answer = ask(method, path, **options)
        answers.append((f"{method} {path}", answer))
        return answer

    visitor.request = request
    return answers


def test_no_answer_names_a_policy_a_version_or_a_seed(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(study__name="trial", study__count=1)
    visitor = app.visitor()
    answers = record(visitor)
    for path in ("/", "/study/trial", "/api/session", "/api/suggestions", "/api/openapi.json", "/health"):
        visitor.request("GET", path)
    visitor.request("GET", "/api/admin/summary")
    own = visitor.pair("words of my own")
    rated = wait_for_study_pair(visitor)
    for pair in (own, rated):
        for side in ("a", "b"):
            visitor.request("GET", pair[side]["url"])
    visitor.request("POST", "/api/votes", json={"pair_id": own["pair_id"]})  # refused
    visitor.vote(own)
    scores = {"rating_id": "1" * 32, "pair_id": rated["pair_id"], "score_a": 1, "score_b": 5, **heard(rated)}
    assert visitor.request("POST", "/api/studies/trial/ratings", json=scores).status_code == 200
    visitor.request("GET", "/api/studies/trial")

    clips = list(app.log.clips())
    secrets = {GOOD, OTHER, *(clip.policy_version for clip in clips), *(str(clip.seed) for clip in clips)}
    assert len(secrets) > 4
    for name, answer in answers:
        told = b"\n".join((answer.content, *(f"{key}: {value}".encode() for key, value in answer.headers.items())))
        for secret in secrets:
            assert secret.encode() not in told, f"{name} tells {secret}"
    kept = str(visitor.cookies)
    assert not any(secret in kept for secret in secrets)


def wait_for_study_pair(visitor: Any) -> dict[str, Any]:
    for _ in range(500):
        study = visitor.request("POST", "/api/studies/trial/pair").json()
        if study["pair"]:
            return study["pair"]
    raise AssertionError(study)


def test_files_carry_no_tags_and_ids_are_those_of_their_content(shared: SmallApp) -> None:
    visitor = shared.visitor()
    pair = visitor.pair()
    for side in ("a", "b"):
        path = shared.log.audio_path(pair[side]["clip_id"])
        with soundfile.SoundFile(path) as file:
            tags = file.copy_metadata()
        assert set(tags) <= {"software"}, tags


def test_sides_are_random(make_app: Callable[..., SmallApp]) -> None:
    app = make_app(pool__pairs=8, rng=random.Random(0))
    wait_until(lambda: len(list(app.log.pairs())) == 8)
    sides = [tuple(app.log.clip(clip).policy for clip in (pair.clip_a, pair.clip_b)) for pair in app.log.pairs()]
    assert set(sides) == {(GOOD, OTHER), (OTHER, GOOD)}
