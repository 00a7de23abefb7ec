import numpy as np
import pytest

from evaluation.comparison import compare_steps, first_and_last
from evaluation.frontier import frontier
from evaluation.score_rows import (
    MIXTURE,
    SCHEMA,
    append_rows,
    judges_of,
    prompt_means,
    read_rows,
    rows_table,
    score_matrix,
    steps_of,
    truncate_rows,
)


def rows(step: int, shift: float = 0.0, seeds: int = 2, prompts: int = 8):
    rng = np.random.default_rng(0)
    ids = np.tile(np.arange(prompts), seeds)
    noise = np.repeat(np.arange(seeds), prompts)
    scores = {name: rng.normal(size=len(ids)) + shift for name in (MIXTURE, "quality", "attributes")}
    return rows_table(step, ids, [f"prompt {i}" for i in ids], noise, scores, in_reward=[MIXTURE, "quality"])


def test_rows_survive_the_file_and_a_repeat_changes_nothing(tmp_path):
    assert read_rows(tmp_path).schema == SCHEMA and len(read_rows(tmp_path)) == 0
    append_rows(tmp_path, rows(0))
    append_rows(tmp_path, rows(50, 1.0))
    append_rows(tmp_path, rows(50, 2.0))
    assert steps_of(read_rows(tmp_path)) == [0, 50]
    assert len(read_rows(tmp_path)) == 2 * 3 * 16
    shift = score_matrix(read_rows(tmp_path), 50, "quality") - score_matrix(read_rows(tmp_path), 0, "quality")
    assert shift == pytest.approx(np.full((8, 2), 2.0), abs=1e-6)


def test_truncation_forgets_later_checkpoints(tmp_path):
    for step in (0, 50, 100):
        append_rows(tmp_path, rows(step))
    truncate_rows(tmp_path, 50)
    assert steps_of(read_rows(tmp_path)) == [0, 50]


def test_matrix_is_ordered_by_prompt_and_seed_and_missing_is_nan():
    table = rows_table(3, [1, 0, 1, 0], ["b", "a", "b", "a"], [9, 9, 4, 4], {"q": np.array([1, 2, np.nan, 4])}, [])
    assert table["score"].null_count == 1
    assert score_matrix(table, 3, "q") == pytest.approx(np.array([[4, 2], [np.nan, 1]]), nan_ok=True)


def test_means_of_prompts_leave_out_what_is_missing():
    assert prompt_means(np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])) == pytest.approx([2.0, 5.0])


def test_judges_are_split_by_whether_they_are_in_the_reward():
    assert judges_of(rows(0)) == [MIXTURE, "quality", "attributes"]
    assert judges_of(rows(0), in_reward=False) == ["attributes"]


def test_comparison_of_first_and_last(tmp_path):
    for step, shift in ((0, 0.0), (50, 0.5), (100, 1.0)):
        append_rows(tmp_path, rows(step, shift))
    found = compare_steps(read_rows(tmp_path), *first_and_last(read_rows(tmp_path)))
    assert [(c.judge, c.in_reward) for c in found] == [(MIXTURE, True), ("quality", True), ("attributes", False)]
    assert all(c.gain.gain.value == pytest.approx(1.0) and c.gain.n == 8 for c in found)
    assert first_and_last(rows(0)) is None


def test_frontier_orders_checkpoints_by_kl(tmp_path):
    for step, shift in ((0, 0.0), (50, 1.0), (100, 0.5)):
        append_rows(tmp_path, rows(step, shift))
    steps = np.arange(1, 101)
    points = frontier(read_rows(tmp_path), steps, steps / 10)
    assert [p.learner_step for p in points] == [0, 50, 100]
    assert [p.kl_clip for p in points] == pytest.approx(
        [0, np.mean(np.arange(41, 51)) / 10, np.mean(np.arange(91, 101)) / 10]
    )
    assert points[1].gain_sd.value == pytest.approx(1.0 / score_matrix(read_rows(tmp_path), 0, MIXTURE).std(ddof=1))
