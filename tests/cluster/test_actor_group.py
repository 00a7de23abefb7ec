"""A group against real Ray actors: all are asked, the first answers, and one that fails ends all in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import ray

from cluster.actor_group import ActorGroup
from cluster.errors import UserError
from cluster.session import ray_session
from cluster.supervision import ActorLost, CallTimedOut, PoolEvent
from tests.cluster.workers import Peer


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session():
        yield


Make = Callable[..., ActorGroup]


@pytest.fixture
def events() -> list[PoolEvent]:
    return []


@pytest.fixture
def make(events: list[PoolEvent]) -> Iterator[Make]:
    made: list[ActorGroup] = []

    def group(size: int = 2, **settings: Any) -> ActorGroup:
        spawn = ray.remote(Peer).options(num_cpus=0.1).remote
        settings = {"deadline_s": 60.0, "on_event": events.append, "grace_s": 5.0, **settings}
        made.append(ActorGroup("learner", spawn, size, **settings))
        return made[-1]

    yield group
    for each in made:
        asyncio.run(each.close())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 200.0))


def test_all_are_asked_and_the_first_answers_once_all_have(make: Make) -> None:
    async def work() -> None:
        group = make(3)
        await group.start()
        assert group.ready == group.size == 3
        batch = np.arange(5)
        assert await group.call("add", batch) == (0, 10)
        assert await group.call("add", batch) == (0, 20)
        totals = await asyncio.gather(*(handle.total.remote() for handle in group.handles))
        assert totals == [20, 20, 20]

    run(work())


def test_a_dead_member_ends_the_group_and_is_named(make: Make, events: list[PoolEvent]) -> None:
    """The first is told by its connection sooner than by Ray that the second is gone; the line names the second."""

    async def work() -> None:
        group = make()
        await group.start()
        handles = group.handles
        with pytest.raises(ActorLost, match=r"^learner: worker 1 of 2 died during die: ") as caught:
            await group.call("die", 1)
        assert len(str(caught.value).splitlines()) == 1
        await gone(handles[0])
        with pytest.raises(ActorLost, match="asked to total after it has ended"):
            await group.call("total")

    run(work())
    assert [(event.role, event.index, event.kind) for event in events] == [("learner", 1, "died")]


def test_a_silent_member_ends_the_group_and_is_named(make: Make, events: list[PoolEvent]) -> None:
    async def work() -> None:
        group = make(grace_s=0.5)
        await group.start()
        handles = group.handles
        told = r"^learner: worker 1 of 2 gave no answer during hang \(learner: worker 0 of 2 waited 1 s for the others"
        with pytest.raises(CallTimedOut, match=told):
            await group.call("hang", 1)
        await gone(handles[1])

    run(work())
    assert [(event.index, event.kind) for event in events] == [(1, "timeout")]


def test_silence_of_all_ends_at_the_deadline(make: Make) -> None:
    async def work() -> None:
        group = make()
        await group.start()
        with pytest.raises(CallTimedOut, match="worker 0 of 2 gave no answer during hang"):
            await group.call("hang", -1, deadline_s=1.0)

    run(work())


def test_what_a_member_raises_comes_through_as_it_is(make: Make) -> None:
    """Also where the other one only knows that it waited."""

    async def work() -> None:
        group = make()
        await group.start()
        with pytest.raises(UserError, match=r"^codes: got nothing$"):
            await group.call("fail", 1)

    run(work())


async def gone(handle: Any) -> None:
    """Returns once the actor is dead: what is killed may answer a moment longer."""
    async with asyncio.timeout(30.0):
        with pytest.raises(ray.exceptions.RayActorError):
            while True:
                await handle.total.remote()
                await asyncio.sleep(0.1)
