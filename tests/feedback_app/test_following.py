"""The app follows a registry of published policies: it takes a new version in mid-use, and nobody sees an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from feedback.preflight import check_policy
from feedback.published import PublishedPolicies
from feedback.records import Consent
from feedback.repertoire import Repertoire
from feedback.settings import load_settings
from tests.feedback_app.small_app import SmallApp, scaled_policy, second_policy, wait_until
from tests.system.tiny_world import TinyWorld

Make = Callable[..., SmallApp]


@pytest.fixture
def registry(tmp_path: Path, world: TinyWorld) -> PublishedPolicies:
    """With one version, the world's."""
    found = PublishedPolicies(tmp_path / "published")
    found.publish(world.folder / "policy")
    return found


def third_policy(world: TinyWorld) -> Path:
    return scaled_policy(world, "third_policy", 0.5)


def following(make_app: Make, registry: PublishedPolicies, **settings: Any) -> SmallApp:
    return make_app(policies=f"loop=registry:{registry.place}", **settings)


def players(app: SmallApp, pair: dict[str, Any]) -> set[str]:
    """Versions that played the clips of a pair."""
    return {app.log.clip(pair[side]["clip_id"]).policy_version for side in ("a", "b")}


def test_a_new_version_is_played_and_what_lies_before_listeners_stays_valid(
    make_app: Make, registry: PublishedPolicies, world: TinyWorld
) -> None:
    app = following(make_app, registry)
    first = registry.current()
    early, late = app.visitor(), app.visitor()
    app.await_pool()
    before = early.pair()
    assert players(app, before) == {first}

    second = registry.publish(second_policy(world), first).version
    seen = [players(app, late.pair()) for _ in range(3)]  # while it changes: each a whole pair, of either version
    assert all(each in ({first}, {second}) for each in seen)
    wait_until(lambda: app.app.state.parts.studio._writer.repertoire.version("loop") == second)
    app.await_pool()

    assert early.request("GET", "/api/pair").json()["pair"]["pair_id"] == before["pair_id"]
    assert early.vote(before).status_code == 200
    for _ in range(4):
        pair = late.pair()
        if players(app, pair) == {second}:
            break
        late.vote(pair)  # one that was under way when the version changed
    assert players(app, pair) == {second} and late.vote(pair).status_code == 200
    assert {vote.pair_id for vote in app.log.votes()} >= {before["pair_id"], pair["pair_id"]}


def test_pairs_of_an_old_version_leave_the_pool(make_app: Make, registry: PublishedPolicies, world: TinyWorld) -> None:
    app = following(make_app, registry)
    app.await_pool()
    pool = app.app.state.parts.studio._pool
    old = set(pool._fresh)
    second = registry.publish(second_policy(world), registry.current()).version
    wait_until(lambda: not old & set(pool._fresh))
    app.await_pool()
    clips = [app.log.clip(entry.pair.clip_a).policy_version for entry in pool._fresh.values()]
    assert clips.count(second) >= len(clips) - 1, "but for one that was under way"


def test_the_newest_against_the_one_before(make_app: Make, registry: PublishedPolicies, world: TinyWorld) -> None:
    first = registry.current()
    second = registry.publish(second_policy(world), first).version
    both = f"loop=registry:{registry.place},before=registry:{registry.place}@previous"
    app = make_app(policies=both)
    assert players(app, app.visitor().pair()) == {first, second}


def test_a_share_of_pairs_is_the_first_policys_own(make_app: Make) -> None:
    app = make_app(same=1.0)
    visitor = app.visitor()
    for _ in range(3):
        pair = visitor.pair()
        assert len(players(app, pair)) == 1
        visitor.vote(pair)


@pytest.mark.parametrize(
    ("group", "consent", "own"),
    [
        ("mellow", Consent.PERSONAL, True),
        ("mellow", Consent.TRAIN, False),
        ("lively", Consent.PERSONAL, False),
        ("", Consent.PERSONAL, False),
    ],
)
def test_a_groups_policy_is_played_to_those_who_allow_it(
    make_app: Make, registry: PublishedPolicies, world: TinyWorld, group: str, consent: Consent, own: bool
) -> None:
    shared = registry.current()
    groups = registry.publish(second_policy(world), shared, group="mellow").version
    app = following(make_app, registry, groups="mellow,lively")
    app.await_pool()
    visitor = app.visitor(consent=None)
    body = {"consent": consent, "group": group}
    assert visitor.request("PUT", "/api/consent", json=body).status_code == 200
    pair = visitor.pair()
    assert players(app, pair) == {groups if own else shared}
    assert visitor.vote(pair).status_code == 200
    assert [listener.group for listener in app.log.listeners()] == [group]
    other = app.visitor()
    assert players(app, other.pair()) == {shared}, "a group's pairs are offered to nobody else"


def test_a_group_that_nobody_named_is_refused(make_app: Make) -> None:
    app = make_app(groups="mellow")
    answer = app.visitor(consent=None).request("PUT", "/api/consent", json={"consent": "train", "group": "other"})
    assert answer.status_code == 422 and "no such group" in answer.json()["error"]
    assert list(app.log.listeners()) == []


def test_a_registry_that_breaks_leaves_what_is_played(registry: PublishedPolicies, world: TinyWorld) -> None:
    now = [0.0]
    first = registry.current()
    policies = {"loop": f"registry:{registry.place}"}
    repertoire = Repertoire(policies, {"loop": first}, clock=lambda: now[0])
    second = registry.publish(second_policy(world), first).version
    assert not repertoire.look() and repertoire.version("loop") == first, "at most once a second"
    now[0] += 1.0
    assert repertoire.look() and repertoire.version("loop") == second
    (registry.place / "current.json").write_text("{")
    now[0] += 1.0
    assert not repertoire.look() and repertoire.version("loop") == second
    own = PublishedPolicies(registry.place)
    (registry.place / "current.json").write_text(f'{{"": "{second}"}}')
    third = own.publish(third_policy(world), second, group="mellow").version
    now[0] += 1.0
    assert not repertoire.look(), "nothing new for everybody"
    assert repertoire.has_own("mellow") and not repertoire.has_own("")
    assert (repertoire.version("loop", "mellow"), repertoire.version("loop", "lively")) == (third, second)


def test_a_registry_without_a_policy_is_answered_in_one_line(tmp_path: Path, world: TinyWorld) -> None:
    place = f"registry:{tmp_path / 'empty'}"
    settings = load_settings([f"policies=loop={place}", f"codec={world.folder / 'codec'}", "seconds=1"])
    with pytest.raises(UserError, match=r"policies loop: got registry:.*nothing is published yet"):
        check_policy(settings, "loop", place)
    with pytest.raises(UserError, match="groups: got 'a b'"):
        load_settings(["groups=ok,a b"])
