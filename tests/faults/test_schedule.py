"""The schedule is a function of its seed."""

from __future__ import annotations

from tests.faults.schedule import draw

PAIRS = [("kill", "generator"), ("kill", "replay"), ("pause", "scorer"), ("slow", "learner")]


def test_the_same_seed_draws_the_same_faults_and_another_others() -> None:
    assert draw(1, 40, PAIRS) == draw(1, 40, PAIRS)
    assert len({draw(seed, 40, PAIRS) for seed in range(8)}) == 8


def test_every_fault_is_drawn_once_in_time_and_in_order() -> None:
    for seed in range(50):
        faults = draw(seed, 40, PAIRS)
        assert sorted((fault.kind, fault.role) for fault in faults) == sorted(PAIRS)
        steps = [fault.step for fault in faults]
        assert steps == sorted(steps) and steps[0] >= 1 and steps[-1] <= 30
        assert all((fault.lasts_s > 0) == (fault.kind != "kill") for fault in faults)
