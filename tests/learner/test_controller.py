"""Properties of the run's loop over random orders, delays, missing scores, lost clips and crashes."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.replay_table import read_rows
from tests.learner.local_run import Crash, World, again, go, small_config

MANY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def world_in(folder: str, seed: int, staleness: int, tasks_per_batch: int = 2, **faults: float) -> World:
    config = small_config(steps=6, batch=4 * tasks_per_batch, rollout=4, max_staleness=staleness)
    return World(Path(folder), config, np.random.default_rng(seed), **faults)  # type: ignore[arg-type]


def check_trained_once(world: World) -> None:
    """Rows of the store against the rows of the metrics: who was trained when, and how stale."""
    table = read_rows(world.folder / "replay").to_pylist()
    live = [row for row in table if not row["dropped"]]
    assert Counter(row["row_id"] for row in live).most_common(1)[0][1] == 1
    trained = Counter(row["trained_step"] for row in live if row["trained_step"] is not None)
    assert trained == {row["learner_step"]: row["sequences"] for row in world.rows}
    bound = world.config.pipeline.max_staleness
    assert all(row["staleness"] <= bound for row in live if row["trained_step"] is not None)
    assert not any(np.isnan(row["reward"]) for row in live if row["trained_step"] is not None)
    numbers = {row["task_id"] for row in live}
    assert numbers == set(range(len(numbers)))  # no prompt was passed over


@MANY
@given(seed=st.integers(0, 10_000), staleness=st.integers(0, 3), generators=st.integers(1, 4), tasks=st.integers(1, 3))
def test_staleness_is_never_above_its_bound_and_every_step_gets_its_batch(
    seed: int, staleness: int, generators: int, tasks: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = world_in(folder, seed, staleness, tasks, generators=generators)
        go(world)
        assert [row["learner_step"] for row in world.rows] == [1, 2, 3, 4, 5, 6]
        assert all(row["staleness_max"] <= staleness for row in world.rows)
        assert all(row["sequences"] == world.config.learner.batch_size for row in world.rows)
        check_trained_once(world)


@MANY
@given(seed=st.integers(0, 10_000), staleness=st.integers(0, 2))
def test_missing_scores_and_lost_clips_do_not_stop_it(seed: int, staleness: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = world_in(folder, seed, staleness, nan_share=0.3, lost_share=0.1)
        go(world)
        assert len(world.rows) == 6
        check_trained_once(world)
        stored = read_rows(world.folder / "replay").to_pylist()
        missing = sum(np.isnan(row["reward"]) for row in stored)
        assert world.rows[-1]["rows_dropped"] <= missing  # a task may have arrived after the last row was written
        assert world.rows[-1]["rows_dropped"] > 0


@MANY
@given(seed=st.integers(0, 10_000), staleness=st.integers(0, 2), crashes=st.lists(st.integers(1, 120), max_size=3))
def test_after_crashes_the_run_ends_with_each_row_trained_once(seed: int, staleness: int, crashes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = world_in(folder, seed, staleness, nan_share=0.2)
        for crash_at_call in crashes:
            world = again(world, crash_at_call)
            try:
                go(world, resume=True)
            except Crash:
                continue
        go(again(world), resume=True)
        assert [row["learner_step"] for row in world.rows] == [1, 2, 3, 4, 5, 6]
        check_trained_once(world)


TIMING = ("time_unix", "seconds_step", "audio_seconds_per_second", "rows_duplicate", "replay_bytes")


def what_was_learned(world: World) -> list[dict]:
    skip = lambda name: name in TIMING or name.startswith(("seconds_", "busy_"))  # noqa: E731
    return [{name: value for name, value in row.items() if not skip(name)} for row in world.rows]


def trained(world: World) -> list[tuple]:
    rows = read_rows(world.folder / "replay").to_pylist()
    return sorted((row["trained_step"], row["row_id"], row["codes"]) for row in rows if row["trained_step"])


@MANY
@given(seed=st.integers(0, 10_000), generators=st.integers(1, 5), lost=st.sampled_from([0.0, 0.1]))
def test_synchronous_results_do_not_depend_on_how_many_generators_there_are(
    seed: int, generators: int, lost: float
) -> None:
    with tempfile.TemporaryDirectory() as fixed, tempfile.TemporaryDirectory() as changing:
        one = world_in(fixed, seed, 0, 4, nan_share=0.2, generators=1)
        go(one)
        other = world_in(changing, seed + 1, 0, 4, nan_share=0.2, generators=generators, lost_share=lost)
        other.resize_share = 0.2
        go(other)
        assert what_was_learned(other) == what_was_learned(one)
        assert trained(other) == trained(one)


@MANY
@given(seed=st.integers(0, 10_000), crash_at_call=st.integers(1, 120))
def test_a_resumed_synchronous_run_equals_the_uninterrupted_one(seed: int, crash_at_call: int) -> None:
    with tempfile.TemporaryDirectory() as straight, tempfile.TemporaryDirectory() as broken:
        whole = world_in(straight, seed, 0, nan_share=0.2)
        go(whole)
        cut = again(world_in(broken, seed + 1, 0, nan_share=0.2), crash_at_call)
        try:
            go(cut)
        except Crash:
            go(again(cut), resume=True)
        assert what_was_learned(cut) == what_was_learned(whole)
        assert trained(cut) == trained(whole)


def test_generators_run_on_while_the_learner_steps_only_when_asynchronous(tmp_path: Path) -> None:
    def freshest(staleness: int) -> list[int]:
        world = world_in(str(tmp_path / str(staleness)), 1, staleness)
        world.folder.mkdir()
        go(world)
        return [row["staleness_max"] for row in world.rows]

    assert freshest(0) == [0] * 6
    assert max(freshest(2)) >= 1


def test_evaluations_are_made_at_the_first_and_last_version(tmp_path: Path) -> None:
    world = world_in(str(tmp_path), 1, 0)
    go(world)
    assert [row["learner_step"] for row in world.rows if "judge_judge" in row] == [6]


def test_an_actor_error_ends_the_run_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        go(again(world_in(str(tmp_path), 1, 2), crash_at_call=40))


def test_sizing_that_is_quicker_than_the_start_of_a_run_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet's watch ticks at every turn, before the first weights are published and before a resume is done."""
    (tmp_path / "still").mkdir()
    (tmp_path / "grows").mkdir()
    still = world_in(str(tmp_path / "still"), 1, 0, 4)
    go(still)
    monkeypatch.setattr("learner.fleet.TICK_S", 0.0)
    grows = world_in(str(tmp_path / "grows"), 1, 0, 4)
    grows.config.actors.generators_max, grows.config.actors.resize_rest_s = 4, 0.0
    with pytest.raises(Crash):
        go(again(grows, crash_at_call=70))
    go(grows, resume=True)
    assert what_was_learned(grows) == what_was_learned(still)
    assert trained(grows) == trained(still)
