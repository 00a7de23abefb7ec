"""The pool against real Ray actors: what dies is replaced and prepared, what hangs is killed, what raises is raised."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.errors import RunFailed, UserError
from cluster.ledger import in_stage
from cluster.member import PoolEvent
from cluster.session import ray_session
from cluster.stacks import describe
from cluster.supervision import ActorLost, ActorPool, CallTimedOut
from tests.cluster.workers import Unbuildable, Worker


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_session():
        yield


Make = Callable[..., ActorPool]


@pytest.fixture
def events() -> list[PoolEvent]:
    return []


@pytest.fixture
def make(events: list[PoolEvent]) -> Iterator[Make]:
    made: list[ActorPool] = []

    def pool(size: int = 1, **settings: Any) -> ActorPool:
        spawn = ray.remote(Worker).options(num_cpus=0.1).remote
        settings = {"deadline_s": 60.0, "max_restarts": 5, "on_event": events.append, **settings}
        made.append(ActorPool("worker", spawn, size, **settings))
        return made[-1]

    yield pool
    for each in made:
        asyncio.run(each.close())


async def asked(pool: ActorPool, method: str) -> list[Any]:
    """The answer of every member, past the pool."""
    return list(await asyncio.gather(*(getattr(handle, method).remote() for handle in pool.handles)))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 200.0))


def test_a_dead_member_is_replaced_and_prepared_before_it_serves(make: Make, events: list[PoolEvent]) -> None:
    newest = {"weights": 1}

    async def work() -> None:
        pool = make(2, prepare=lambda handle: handle.prepare.remote(newest["weights"]))
        await pool.start()
        assert await asked(pool, "weights_in_use") == [0, 0]  # nothing to prepare with yet
        await pool.refresh()
        assert await asked(pool, "weights_in_use") == [1, 1]
        newest["weights"] = 2
        await pool.refresh()
        os.kill((await asked(pool, "pid"))[0], signal.SIGKILL)
        assert await asyncio.gather(*(pool.call("weights_in_use") for _ in range(4))) == [2, 2, 2, 2]
        while pool.ready < 2:  # at most two calls met the dead one, and went to the other
            await asyncio.sleep(0.05)
        assert await asked(pool, "weights_in_use") == [2, 2]
        assert [(event.role, event.index, event.kind) for event in events] == [("worker", 0, "died")]
        assert pool.restarts == pool.handed_back == 1

    run(work())


def test_a_pool_grows_and_shrinks_while_it_works(make: Make, events: list[PoolEvent]) -> None:
    async def work() -> None:
        pool = make(0, prepare=lambda handle: handle.prepare.remote(7))
        await pool.start()
        await pool.refresh()
        early = asyncio.create_task(pool.call("weights_in_use"))  # waits for whoever comes
        await asyncio.sleep(0)
        assert (pool.ready, pool.pending, pool.waiting) == (0, 0, 1)
        pool.resize(2)
        assert pool.pending == 2
        assert await early == 7  # who joins later is prepared all the same
        while pool.ready < 2:
            await asyncio.sleep(0.05)
        naps = [asyncio.create_task(pool.call("nap", 0.5)) for _ in range(2)]
        await asyncio.sleep(0.1)
        pool.resize(0)
        assert pool.ready == 0
        assert len(set(await asyncio.gather(*naps))) == 2  # both ended the call that they worked on
        assert pool.handed_back == pool.restarts == 0 and not events

    run(work())


def test_what_an_actor_answers_after_its_node_was_lost_is_refused_and_counted(
    make: Make, events: list[PoolEvent], tmp_path: Path
) -> None:
    async def work() -> None:
        pool = make()
        await pool.start()
        orphan = (await asked(pool, "pid"))[0]
        answer = asyncio.create_task(pool.call("nap_once", str(tmp_path / "napped"), 3.0, retries=0))
        while not (tmp_path / "napped").exists():
            await asyncio.sleep(0.02)
        pool.lose_nodes(pool.nodes)  # as far as the pool knows; the actor lives on
        assert await answer != orphan  # the call went to another member
        while not pool.late:
            await asyncio.sleep(0.05)
        assert (pool.late, pool.handed_back, pool.restarts) == (1, 1, 1)
        assert [event.kind for event in events] == ["node"]

    run(work())


def test_a_drained_member_ends_its_call_or_hands_it_back(make: Make, events: list[PoolEvent], tmp_path: Path) -> None:
    async def work() -> None:
        pool = make()
        await pool.start()
        first = (await asked(pool, "pid"))[0]
        in_time = asyncio.create_task(pool.call("nap_once", str(tmp_path / "short"), 0.5))
        await asyncio.sleep(0.1)
        pool.drain(dict.fromkeys(pool.nodes, 60.0))
        assert await in_time == first and pool.handed_back == 0
        while not pool.ready:
            await asyncio.sleep(0.05)
        too_late = asyncio.create_task(pool.call("nap_once", str(tmp_path / "long"), 600.0))
        await asyncio.sleep(0.1)
        pool.drain(dict.fromkeys(pool.nodes, 3.5))
        assert await too_late != first
        assert pool.handed_back == 1 and pool.late == 0
        assert [event.kind for event in events] == ["drained", "drained"]

    run(work())


def test_who_cannot_join_is_withdrawn_where_enough_others_are_there(make: Make, events: list[PoolEvent]) -> None:
    good = ray.remote(Worker).options(num_cpus=0.1)
    huge = ray.remote(Worker).options(num_cpus=10_000)

    async def work() -> None:
        settings: dict[str, Any] = {"deadline_s": 60.0, "max_restarts": 5, "on_event": events.append}
        pool = ActorPool(
            "worker", lambda i: (huge if i else good).remote(i), 1, least=1, start_deadline_s=20.0, **settings
        )
        await pool.start()
        pool._start_deadline_s = 0.5
        pool.resize(2)
        while pool.pending:
            assert await pool.call("weights_in_use") == 0  # the pool works on meanwhile
            await asyncio.sleep(0.05)
        assert (pool.size, pool.ready) == (1, 1)
        assert [(event.kind, event.index) for event in events] == [("withdrawn", 1)]
        await pool.close()

    run(work())


def test_a_call_that_was_lost_or_late_is_made_again(make: Make, events: list[PoolEvent], tmp_path: Path) -> None:
    async def work() -> None:
        pool = make(deadline_s=60.0)
        await pool.start()
        assert await pool.call("die_once", str(tmp_path / "died")) == "alive"
        assert await pool.call("hang_once", str(tmp_path / "hung"), deadline_s=1.5) == "awake"
        assert [(event.kind, event.method) for event in events] == [("died", "die_once"), ("timeout", "hang_once")]
        assert "workers.py" in events[1].stacks and "in hang_once" in events[1].stacks
        assert pool.under_way() == []

    run(work())


def test_what_an_actor_was_asked_and_has_not_answered_is_told(make: Make) -> None:
    async def work() -> None:
        pool = make(1)
        await pool.start()
        with in_stage("score"):
            late = asyncio.create_task(pool.call("hang", deadline_s=60.0, retries=0))
        while not pool.under_way():
            await asyncio.sleep(0.01)
        (call,) = pool.under_way()
        assert (call.role, call.index, call.method) == ("worker", 0, "hang")
        assert call.where is not None and "in hang" in await describe(call.where)
        late.cancel()

    run(work())


def test_without_retries_the_caller_hears_what_happened_and_the_pool_goes_on(make: Make, tmp_path: Path) -> None:
    async def work() -> None:
        pool = make(max_restarts=0)
        await pool.start()
        with pytest.raises(CallTimedOut, match="worker: hang gave no answer"):
            await pool.call("hang", deadline_s=0.5, retries=0, charge=False)
        with pytest.raises(ActorLost, match="worker: died during die_once"):
            await pool.call("die_once", str(tmp_path / "died"), retries=0, charge=False)
        assert await pool.call("weights_in_use") == 0
        assert pool.restarts == 2

    run(work())


def test_an_exception_of_the_method_comes_through_and_is_not_retried(make: Make, tmp_path: Path) -> None:
    async def work() -> None:
        pool = make()
        await pool.start()
        with pytest.raises(UserError, match=r"^codes: got nothing$"):
            await pool.call("fail", str(tmp_path / "calls"))
        assert (tmp_path / "calls").read_text() == "x"
        assert pool.restarts == 0

    run(work())


def test_restarts_are_bounded_and_the_end_names_the_role(make: Make) -> None:
    async def work() -> None:
        pool = make(max_restarts=1)
        await pool.start()
        with pytest.raises(RunFailed, match="worker: lost 2 times, allowed 1; last: deadline passed"):
            await pool.call("hang", deadline_s=0.5)

    run(work())


def test_an_actor_that_cannot_be_built_or_placed_ends_the_start(events: list[PoolEvent]) -> None:
    async def work() -> None:
        broken = ray.remote(Unbuildable)
        settings: dict[str, Any] = {"deadline_s": 60.0, "max_restarts": 5, "on_event": events.append}
        with pytest.raises(RunFailed, match=r"scorer: could not start: .*codec: got nothing"):
            await ActorPool("scorer", lambda _: broken.remote(), 1, **settings).start()
        huge = ray.remote(Worker).options(num_cpus=10_000)
        with pytest.raises(RunFailed, match="generator: actor 0 did not start within 1 s; the cluster may lack"):
            pool = ActorPool("generator", huge.remote, 1, start_deadline_s=1.0, **settings)
            await pool.start()
        await pool.close()
        assert events == []

    run(work())


def test_further_returns_stay_references(make: Make) -> None:
    async def work() -> None:
        pool = make()
        await pool.start()
        small, large = await pool.call("small_and_large")
        assert small == 7
        assert isinstance(large, ray.ObjectRef)
        assert len(await large) == 10

    run(work())
