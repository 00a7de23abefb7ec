"""The guard against over-optimisation, on planted histories whose truth is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from configs.schema import AlarmRules
from evaluation.over_optimisation import (
    History,
    alarms,
    guard_scores,
    history_of,
    propose_checkpoint,
    standardised,
)
from evaluation.score_rows import DIVERSITY, SECOND_PREFERENCE, rows_table

STEPS = np.arange(9) * 25
RISES = 0.2 * np.arange(9.0)
TURNS = np.array([0.0, 0.25, 0.45, 0.55, 0.6, 0.45, 0.25, 0.0, -0.3])  # in sd: the peak is at step 100


def planted(
    reward: np.ndarray, second: np.ndarray, judges: np.ndarray, seed: int = 0, prompts: int = 64, **more: object
) -> History:
    """Means in sd, [E]; around them prompts that differ, and noise half of which stays with the prompt."""
    rng = np.random.default_rng(seed)

    def scores(means: np.ndarray, scale: float) -> np.ndarray:
        own = rng.standard_normal((1, prompts))
        fresh = rng.standard_normal((len(means), prompts))
        return 3.0 + scale * (means[:, None] + np.sqrt(0.5) * (own + fresh))

    held_out = {f"judge_{i}": scores(judges, scale) for i, scale in enumerate((1.0, 0.1, 5.0))}
    held_out[SECOND_PREFERENCE] = scores(second, 1.0)
    return History(STEPS, scores(reward, 2.0), held_out, RISES * 10, **more)  # type: ignore[arg-type]


def test_silent_on_healthy_runs():
    rung = sum(bool(alarms(planted(RISES, 0.7 * RISES, 0.5 * RISES, seed))) for seed in range(100))
    assert rung <= 5


def test_silent_where_everything_levels_off():
    level = 1.2 * (1 - np.exp(-np.arange(9) / 2.0))
    rung = sum(bool(alarms(planted(level, 0.7 * level, 0.5 * level, seed))) for seed in range(100))
    assert rung <= 10


@pytest.mark.parametrize("seed", range(10))
def test_rings_soon_after_the_turn(seed):
    found = alarms(planted(RISES, TURNS, 0.5 * TURNS, seed))
    assert found and 75 <= found[0].learner_step <= 175
    assert found[0].guard and found[0].text.startswith(found[0].guard)


def test_a_fall_without_a_rising_reward_is_no_exploit():
    sinking = -0.2 * np.arange(9.0)
    assert not [alarm for alarm in alarms(planted(sinking, sinking, sinking)) if alarm.rule == "falls"]


def test_one_bad_evaluation_is_not_enough():
    dip = np.where(STEPS == 100, -0.1, 0.7 * RISES)
    assert "falls" not in {alarm.rule for alarm in alarms(planted(RISES, dip, 0.5 * RISES))}
    once = alarms(planted(RISES, dip, 0.5 * RISES), AlarmRules(consecutive=1, window=9))
    assert [(alarm.rule, alarm.learner_step, alarm.since) for alarm in once] == [("falls", 100, 100)]


def test_a_plunge_rings_at_once():
    plunge = np.where(STEPS >= 100, -1.5, 0.7 * RISES)
    history = planted(RISES, plunge, 0.5 * RISES)
    assert min(alarm.learner_step for alarm in alarms(history) if alarm.rule == "falls") == 100
    never_at_once = AlarmRules(at_once_se=1e9)
    falls = [alarm for alarm in alarms(history, never_at_once) if alarm.rule == "falls"]
    assert (falls[0].learner_step, falls[0].since) == (125, 100)


def test_an_alarm_knows_nothing_of_what_comes_later():
    whole = planted(RISES, TURNS, 0.5 * TURNS)
    first = alarms(whole)[0]
    until = int(np.flatnonzero(first.learner_step == STEPS)[0]) + 1
    assert alarms(whole.until(until)) == [first] or first in alarms(whole.until(until))
    assert not alarms(whole.until(until - 1))


def test_numbers_of_the_fall_by_hand():
    """Two prompts pairs: sd of the first evaluation 1, fall of 2 sd with an SE of 0.5."""
    first = np.array([1.0, -1.0, 1.0, -1.0]) * np.sqrt(3 / 4)  # standard deviation 1, mean 0
    second = np.stack([first, first - np.array([1.0, 3.0, 1.0, 3.0]), first - np.array([1.0, 3.0, 1.0, 3.0])])
    reward = np.stack([first, first + 1.0, first + 1.0])
    history = History(STEPS[:3], reward, {SECOND_PREFERENCE: second}, np.zeros(3))
    rules = AlarmRules(falls_se=2.0 / (np.std([1, 3, 1, 3], ddof=1) / 2) - 0.01, window=9)
    assert [(a.rule, a.learner_step) for a in alarms(history, rules)] == [("falls", 50)]
    stricter = AlarmRules(falls_se=2.0 / (np.std([1, 3, 1, 3], ddof=1) / 2) + 0.01, window=9)
    assert alarms(history, stricter) == []


def test_narrow_and_far():
    rules = AlarmRules(diversity=0.5, kl_clip=12.5)
    history = planted(RISES, RISES, RISES, diversity=np.linspace(0.8, 0.2, 9))
    found = {(alarm.rule, alarm.learner_step) for alarm in alarms(history, rules)}
    assert ("far", 200) in found and min(step for rule, step in found if rule == "far") == 200
    assert min(step for rule, step in found if rule == "narrows") == 175


def test_proposes_the_peak_or_little_before_it():
    for seed in range(10):
        proposal = propose_checkpoint(planted(RISES, TURNS, TURNS, seed), STEPS.tolist())
        assert 50 <= proposal.learner_step <= 125, proposal.why
        assert proposal.alarms and "not trusted" in proposal.why


def test_proposes_the_end_of_a_healthy_run_and_only_what_is_kept():
    healthy = planted(RISES, RISES, RISES)
    assert propose_checkpoint(healthy, STEPS.tolist()).learner_step >= 175
    assert propose_checkpoint(healthy, [0, 50]).learner_step == 50
    with pytest.raises(ValueError, match="not evaluated"):
        propose_checkpoint(healthy, [13])


def test_standardised_leaves_out_prompts_that_come_and_go():
    scores = np.array([[0.0, 2.0, 9.0], [1.0, 3.0, np.nan]])
    found = standardised(scores)
    assert np.isnan(found[:, 2]).all()
    assert np.allclose(found[:, :2], (scores[:, :2] - 1.0) / np.sqrt(2.0))


def test_history_from_evaluation_rows():
    def at(step: int) -> pa.Table:
        scores = {
            "reward": np.array([step, step + 1.0]),
            "quality": np.array([1.0, 2.0]),
            SECOND_PREFERENCE: np.array([0.5, np.nan]),
            DIVERSITY: np.array([0.6, 0.8]),
        }
        return rows_table(step, [0, 1], ["p", "q"], [5, 6], scores, ["reward", "quality"])

    rows = pa.concat_tables([at(0), at(10)])
    history = history_of(rows, np.arange(1, 11), np.full(10, 4.0), unweighted=("quality",))
    assert history.steps.tolist() == [0, 10] and history.kl_clip.tolist() == [0.0, 4.0]
    assert set(history.judges) == {SECOND_PREFERENCE, "quality"}
    assert np.allclose(history.diversity, 0.7)
    assert np.allclose(history.reward, [[0, 1], [10, 11]])
    assert np.isnan(history.judges[SECOND_PREFERENCE][:, 1]).all()
    assert set(guard_scores(history)) == {"second preference model", "held-out judges"}
    with pytest.raises(ValueError, match="training reward"):
        history_of(rows.slice(2).filter([False] * (len(rows) - 2)), np.arange(1), np.zeros(1))
