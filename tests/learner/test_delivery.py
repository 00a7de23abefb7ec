"""The newest weights reach whoever asks, when one publication is damaged or another takes its place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.errors import RunFailed
from cluster.weight_bus import CorruptWeights, Publication, Superseded
from learner.delivery import ATTEMPTS, use_newest
from learner.pools import Newest


def publication(version: int) -> Publication:
    return Publication(version, "run-a", (), (), (), str(version))


class Learner:
    """Publishes again under the next number, so that it can be told apart."""

    def __init__(self, first: int) -> None:
        self.version = first

    async def call(self, method: str, again: bool) -> Publication:
        assert method == "publish" and again
        self.version += 1
        return publication(self.version)


def deliver(newest: Newest, outcomes: list[Exception | None]) -> tuple[list[int], Any]:
    """-> versions that were tried, and the result or the error."""
    tried: list[int] = []

    async def use(given: Publication) -> str:
        tried.append(given.version)
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return "used"

    learner: Any = Learner(newest.version)
    try:
        return tried, asyncio.run(use_newest(newest, learner, use))
    except RunFailed as error:
        return tried, error


def test_a_damaged_publication_is_counted_and_made_again() -> None:
    newest = Newest(publication(3))
    assert deliver(newest, [CorruptWeights("bad"), CorruptWeights("bad"), None]) == ([3, 4, 5], "used")
    assert newest.refused == 2 and newest.version == 5


def test_a_superseded_publication_is_followed_by_the_newest() -> None:
    newest = Newest(publication(3))
    assert deliver(newest, [Superseded("gone"), None]) == ([3, 3], "used")
    assert newest.refused == 0


def test_it_ends_after_some_attempts_and_other_failures_pass() -> None:
    tried, error = deliver(Newest(publication(0)), [CorruptWeights("bad bucket")] * 9)
    assert len(tried) == ATTEMPTS and "not delivered in 5 attempts, the last time: bad bucket" in str(error)
    tried, error = deliver(Newest(publication(0)), [RunFailed("probe")])
    assert len(tried) == 1 and str(error) == "probe"


@pytest.mark.parametrize("at_once", [2, 3])
def test_readers_of_one_damaged_publication_do_not_wait_for_each_other(at_once: int) -> None:
    newest = Newest(publication(0))
    learner: Any = Learner(0)

    async def use(given: Publication) -> int:
        await asyncio.sleep(0)
        if given.version == 0:
            raise CorruptWeights("bad")
        return given.version

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(use_newest(newest, learner, use) for _ in range(at_once)))

    assert all(version >= 1 for version in asyncio.run(all_of_them()))
    assert newest.refused == at_once
