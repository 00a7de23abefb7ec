"""Finding the clips that a reward cannot score: exactly those are marked, in bounded work, on real Ray actors too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scorer import Scorer
from actors.scorer_pool import ScorerPool
from cluster.errors import RunFailed
from cluster.member import PoolEvent
from cluster.supervision import ActorPool
from configs.schema import RewardConfig
from rewards.port import ClipBatch, ScoreTable

EPOCH = "run-a"
CONFIGS = {"mine": RewardConfig(target="tests.actors.failing_rewards:Obedient")}


def clips_of(*orders: str) -> ClipBatch:
    """One clip an order; clip i scores i where it scores."""
    prompts = tuple(f"{order} {index}" for index, order in enumerate(orders))
    return ClipBatch(prompts, 16_000, codes=np.zeros((len(orders), 1, 1), np.uint16))


class InProcess:
    """A pool of one scorer in this process."""

    def __init__(self, epoch: str = EPOCH) -> None:
        self.scorer = Scorer(CONFIGS, epoch, threads=1)
        self.calls = 0

    async def call(self, method: str, *args: Any, **limits: Any) -> Any:
        self.calls += 1
        return getattr(self.scorer, method)(*args)


def score_here(clips: ClipBatch, deadline_s: float = 30.0, **options: Any) -> tuple[ScoreTable, ScorerPool, int]:
    pool = InProcess()
    scorers = ScorerPool(pool, {"mine": deadline_s}, EPOCH, **options)
    return asyncio.run(scorers.score(clips, len(clips))), scorers, pool.calls


def test_a_batch_without_failures_is_one_call() -> None:
    table, scorers, calls = score_here(clips_of("fine", "fine", "fine"))
    assert table.scores["mine"].tolist() == [0.0, 1.0, 2.0] and table.scores["mine"].dtype == np.float32
    assert table.status["mine"] == ("ok", "ok", "ok")
    assert table.versions == {"mine": "obedient-1"}
    assert calls == 1 and not scorers.failures


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["fine", "fine", "fine", "raise", "shape", "nan", "inf", "poison"]), min_size=1, max_size=40
    )
)
def test_exactly_the_guilty_clips_are_marked(orders: list[str]) -> None:
    wanted = {"raise": "error", "shape": "error", "nan": "non_finite", "inf": "non_finite", "poison": "non_finite"}
    expected = tuple(wanted.get(order, "ok") for order in orders)
    heard: Counter[tuple[str, str]] = Counter()
    table, scorers, calls = score_here(
        clips_of(*orders),
        give_up_after=10**6,
        on_failure=lambda name, status, clips: heard.update({(name, status): clips}),
    )
    assert table.status["mine"] == expected
    scores = [float(i) if status == "ok" else np.nan for i, status in enumerate(expected)]
    np.testing.assert_array_equal(table.scores["mine"], np.asarray(scores, np.float32))
    assert calls <= 2 * len(orders) - 1
    failures = Counter(("mine", status) for status in expected if status != "ok")
    assert heard == failures == scorers.failures


def test_a_clip_that_hangs_costs_no_actor_and_bounded_time() -> None:
    started = time.perf_counter()
    table, _, _ = score_here(clips_of(*["fine"] * 20, "hang", *["fine"] * 11), deadline_s=1.0)
    waited_s = time.perf_counter() - started
    assert [i for i, status in enumerate(table.status["mine"]) if status != "ok"] == [20]
    assert table.status["mine"][20] == "timeout"
    assert waited_s < 3.5  # one deadline, and at most two more


def test_many_hanging_clips_are_given_up_on_after_two_more_deadlines() -> None:
    started = time.perf_counter()
    table, _, calls = score_here(clips_of("fine", *["hang"] * 39), deadline_s=0.8, give_up_after=100)
    assert time.perf_counter() - started < 4.0 and calls < 20
    assert set(table.status["mine"]) == {"ok", "timeout"} or set(table.status["mine"]) == {"timeout"}


def test_a_reward_that_fails_for_all_clips_ends_the_run_in_one_line() -> None:
    with pytest.raises(RunFailed) as caught:
        score_here(clips_of(*["raise"] * 8))
    expected = "reward mine failed for all of the last 8 clips: ArithmeticError: this clip is beyond me"
    assert str(caught.value) == expected
    with pytest.raises(RunFailed, match=r"no score within 0\.25 s"):
        score_here(clips_of(*["hang"] * 8), deadline_s=0.5)
    with pytest.raises(RunFailed, match="returned no finite score"):
        score_here(clips_of(*["nan"] * 8))


def test_a_small_batch_that_fails_wholly_is_not_yet_the_end() -> None:
    scorers = ScorerPool(InProcess(), {"mine": 30.0}, EPOCH, give_up_after=4)

    async def run() -> None:
        for order in ("raise", "raise", "fine", "raise", "raise", "raise"):
            await scorers.score(clips_of(order), 1)
        await scorers.score(clips_of("raise"), 1)

    with pytest.raises(RunFailed, match="all of the last 4 clips"):
        asyncio.run(run())
    assert scorers.failures["mine", "error"] == 6


def test_an_answer_of_another_incarnation_is_refused() -> None:
    scorers = ScorerPool(InProcess(epoch="run-0"), {"mine": 30.0}, EPOCH)
    with pytest.raises(RunFailed, match="epoch run-0, allowed run-a"):
        asyncio.run(scorers.score(clips_of("fine"), 1))


# --- on Ray --------------------------------------------------------------------------------------------------------


@dataclass
class OnRay:
    """One real scorer behind the real pool, and what happened to it."""

    runner: asyncio.Runner
    pool: ActorPool
    events: list[PoolEvent]

    def score(self, *orders: str, deadline_s: float = 10.0) -> tuple[ScoreTable, list[str]]:
        """-> scores, and the kinds of events that the scoring caused."""
        self.events.clear()
        scorers = ScorerPool(self.pool, {"mine": deadline_s}, EPOCH)
        table = self.runner.run(scorers.score(ray.put(clips_of(*orders)), len(orders)))
        return table, [event.kind for event in self.events]


@pytest.fixture(scope="module")
def on_ray() -> Iterator[OnRay]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    actor = ray.remote(num_cpus=0.1)(Scorer)
    events: list[PoolEvent] = []
    pool = ActorPool(
        "scorer",
        lambda index: actor.remote(CONFIGS, EPOCH, 1),
        size=1,
        deadline_s=60.0,
        max_restarts=1,
        on_event=events.append,
    )
    with asyncio.Runner() as runner:
        runner.run(pool.start())
        yield OnRay(runner, pool, events)
        runner.run(pool.close())
    ray.shutdown()


def test_clips_travel_by_reference_and_failures_cost_no_actor(on_ray: OnRay) -> None:
    table, events = on_ray.score("fine", "raise", "hang", "nan", "fine", deadline_s=2.0)
    assert table.status["mine"] == ("ok", "error", "timeout", "non_finite", "ok")
    assert not events


def test_a_clip_that_freezes_its_process_costs_the_actor_but_not_the_run(on_ray: OnRay) -> None:
    table, events = on_ray.score("freeze", deadline_s=0.5)
    assert table.status["mine"] == ("timeout",) and events == ["timeout"]


def test_a_clip_that_kills_its_process_is_tried_twice(on_ray: OnRay) -> None:
    table, events = on_ray.score("die")
    assert table.status["mine"] == ("error",) and events == ["died", "died"]


def test_kill_9_of_a_scorer_is_not_the_rewards_fault(on_ray: OnRay) -> None:
    on_ray.runner.run(on_ray.pool.call("facts"))  # a new one stands ready
    pid = ray.get(on_ray.pool.handles[0].__ray_call__.remote(lambda scorer: os.getpid()), timeout=60)
    os.kill(pid, signal.SIGKILL)
    table, events = on_ray.score("fine", "fine")
    assert table.status["mine"] == ("ok", "ok") and events == ["died"]
