"""The simulated pipeline: exact where arithmetic can say what must come out, and bound by the run's own rules."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from actors.admission import Admission
from cluster.errors import RunFailed
from learner.simulated_fleet import SIZES, Settings, fleet_of
from learner.simulated_pipeline import Outcome, ServiceTimes, Shape, SimulatedTime, simulate

TIMES = ServiceTimes(
    sample=10.0, activate=0.5, score=2.0, insert=0.1, take=0.2, commit=0.3, stats=0.4, learn=3.0, publish=0.05
)
SYNC = Shape(generators=1, scorers=1, batch_rows=8, task_rows=8, max_staleness=0, steps=8)


def test_one_task_a_batch_takes_the_sum_of_everything() -> None:
    outcome = simulate(SYNC, TIMES)
    assert outcome.step_s == pytest.approx(
        10 + 0.5 + 2 + 0.1 + 0.2 + 0.3 + 3 + 0.05
    )  # statistics are read while the next one is sampled
    assert outcome.rows_per_s == pytest.approx(8 / outcome.step_s)
    assert outcome.staleness == outcome.staleness_max == 0


@pytest.mark.parametrize(
    ("generators", "scorers", "sampling_s"), [(1, 1, 42.0), (2, 2, 22.0), (4, 1, 18.0), (4, 4, 12.0)]
)
def test_four_tasks_a_batch_share_generators_and_scorers(generators: int, scorers: int, sampling_s: float) -> None:
    times = ServiceTimes(10.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0)
    outcome = simulate(replace(SYNC, generators=generators, scorers=scorers, batch_rows=32), times)
    assert outcome.step_s == pytest.approx(sampling_s + 3.0)


def test_side_by_side_the_slower_half_sets_the_pace() -> None:
    times = ServiceTimes(10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0)
    shape = replace(SYNC, max_staleness=2, batch_rows=32, steps=20)
    assert simulate(replace(shape, generators=2), times).step_s == pytest.approx(20.0)
    assert simulate(replace(shape, generators=40), times).step_s == pytest.approx(10.0 / 3 * 1, rel=0.5)
    learner_bound = simulate(replace(shape, generators=40), replace(times, learn=30.0))
    assert learner_bound.step_s == pytest.approx(30.0) and learner_bound.learner_busy > 0.9


def test_weights_travel_while_generators_sample() -> None:
    times = ServiceTimes(10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0)
    waits = simulate(SYNC, replace(times, travel=5.0))
    assert waits.step_s == pytest.approx(18.0)
    beside = replace(SYNC, max_staleness=2, batch_rows=32, generators=2, steps=20)
    assert simulate(beside, replace(times, travel=5.0)).step_s == pytest.approx(20.0, rel=0.13)
    assert simulate(beside, replace(times, activate=5.0)).step_s >= 25.0


@pytest.mark.parametrize("bound", [1, 2, 4])
def test_staleness_stays_below_its_bound_and_reaches_it_with_many_generators(bound: int) -> None:
    times = replace(TIMES, spread=0.5)
    outcome = simulate(Shape(8, 2, 32, 8, bound, steps=24), times)
    assert outcome.staleness_max == bound and 0 < outcome.staleness <= bound


def test_the_same_seed_is_the_same_run_and_costs_no_time() -> None:
    begun = time.monotonic()
    shape = Shape(4, 1, 32, 8, 2, steps=12, seed=1)
    outcomes = [simulate(replace(shape, seed=seed), replace(TIMES, spread=0.3, sample=500.0)) for seed in (1, 1, 2)]
    assert outcomes[0] == outcomes[1] != outcomes[2]
    simulated_s = sum(12 * outcome.step_s for outcome in outcomes)
    assert simulated_s > 12_000 and time.monotonic() - begun < simulated_s / 10


def test_admission_is_the_run_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    free = simulate(Shape(4, 1, 16, 8, 2, steps=12), TIMES)
    real = Admission.capacity

    def stingy(self: Admission, version: int, weights_version: int | None = None) -> int:
        return 0 if self.tasks_in_flight else real(self, version, weights_version)

    monkeypatch.setattr(Admission, "capacity", stingy)
    assert simulate(Shape(4, 1, 16, 8, 2, steps=12), TIMES).rows_per_s < free.rows_per_s / 1.5


def test_actors_that_wait_for_each_other_are_an_error_and_no_hang() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=SimulatedTime) as runner, pytest.raises(RunFailed, match="everybody waits"):
        runner.run(forever())


def test_a_fleet_s_arithmetic() -> None:
    settings = Settings(lost_share=0.0)
    fleet = fleet_of(settings, SIZES["3.3"], 8)
    read = 2 * 3.3e9 + 16 * (4 * 48 * 2048) * 750
    assert fleet.times.sample == pytest.approx(1500 * read / (864e9 * 0.6) + 16 * 0.05)
    assert fleet.learners == 2  # 34 bytes a parameter do not fit one GPU of 80 GB
    work = 14 * 3.3e9 * 1500 * fleet.shape.batch_rows
    assert fleet.times.learn == pytest.approx(work / (2 * 989e12 * 0.35))
    assert fleet.broadcast_s == pytest.approx(4 * 6.6e9 / 3.1e9)  # a tree of 9 has four levels
    assert fleet.serial_s == pytest.approx(8 * 6.6e9 / 3.1e9)
    outcome = Outcome(1.0, 2.0, 0.0, 0, 1.0, 1.0)
    hourly = 8 * 0.94 + fleet.shape.scorers * 0.94 + 2 * 2.69 + 0.5
    assert fleet.usd_per_million_clips(settings, outcome) == pytest.approx(hourly / 3600 / 2.0 * 1e6)


def test_pre_emption_costs_its_share() -> None:
    whole, lossy = (fleet_of(Settings(lost_share=share), SIZES["0.3"], 1).times.sample for share in (0.0, 0.2))
    assert lossy == pytest.approx(whole / 0.8)
