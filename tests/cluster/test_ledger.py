from __future__ import annotations

import random

import pytest

from cluster.catalogue import STAGES as CATALOGUE_STAGES
from cluster.catalogue import find_metric
from cluster.ledger import STAGES, Ledger, current_stage, in_stage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_stages_are_the_catalogues() -> None:
    assert set(STAGES) == set(CATALOGUE_STAGES)
    for name in Ledger().close_row():
        find_metric(name)


def test_each_moment_belongs_to_the_stage_furthest_downstream() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    clock.now += 5.0  # nothing runs yet: start
    ledger.started()
    with ledger.stage("sample"):
        clock.now += 2.0
        with ledger.stage("score"):
            clock.now += 3.0  # another rollout is scored meanwhile
        clock.now += 1.0
    clock.now += 0.5  # nothing runs: other
    row = ledger.close_row()
    assert row["seconds_start"] == pytest.approx(5.0)
    assert row["seconds_sample"] == pytest.approx(3.0)
    assert row["seconds_score"] == pytest.approx(3.0)
    assert row["seconds_other"] == pytest.approx(0.5)
    assert row["seconds_learn"] == 0.0


def test_a_stage_that_is_open_when_a_row_closes_goes_on_in_the_next() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    with ledger.stage("learn"):
        clock.now += 1.0
        assert ledger.close_row()["seconds_learn"] == pytest.approx(1.0)
        clock.now += 2.0
    assert ledger.close_row()["seconds_learn"] == pytest.approx(2.0)


def test_generating_is_split_into_sampling_and_decoding_as_the_workers_report() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    with ledger.stage("sample"):
        clock.now += 8.0
    ledger.busy("sample", 6.0)
    ledger.busy("decode", 2.0)
    row = ledger.close_row()
    assert (row["seconds_sample"], row["seconds_decode"]) == pytest.approx((6.0, 2.0))
    assert (row["busy_sample"], row["busy_decode"]) == (6.0, 2.0)


def test_stages_add_up_to_an_independent_clock() -> None:
    clock, noise = Clock(), random.Random(1)
    ledger = Ledger(clock)
    ledger.started()
    started, total, open_stages = clock.now, 0.0, []
    for event in range(500):
        clock.now += noise.random()
        if open_stages and noise.random() < 0.5:
            open_stages.pop(noise.randrange(len(open_stages))).__exit__(None, None, None)
        else:
            stage = ledger.stage(noise.choice(STAGES))
            stage.__enter__()
            open_stages.append(stage)
        ledger.busy("sample", noise.random())
        if event % 50 == 49:
            row = ledger.close_row()
            total += sum(spent for name, spent in row.items() if name.startswith("seconds_"))
    assert total == pytest.approx(clock.now - started)


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="stage: got 'lunch'"), Ledger().stage("lunch"):
        pass


def test_the_stage_of_a_task_is_the_innermost_and_ends_with_it() -> None:
    with in_stage("sample"):
        with in_stage("publish"):
            assert current_stage() == "publish"
        assert current_stage() == "sample"
    assert current_stage() == "start"
