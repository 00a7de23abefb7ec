"""The panel: who is in it, the chances of answers against their formula, votes against chances, the best accuracy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from simulated_parts import random_heard

from cluster.errors import UserError
from feedback.records import Choice
from feedback.simulated_ceiling import (
    Answers,
    best_accuracy,
    best_accuracy_known,
    expected_answers,
    group_members,
    rule_accuracy,
)
from feedback.simulated_panel import (
    Duel,
    agreement,
    cast_votes,
    chances,
    draw_panel,
    duel,
    mean_chances,
    solve_noise,
    utilities,
)
from feedback.simulated_parameters import Spread, load_parameters
from feedback.simulated_utility import group_utility

PARAMETERS = load_parameters()
PLAIN = dataclasses.replace(  # neither deviations nor biases nor spam
    PARAMETERS,
    weight_spread=0.0,
    centre_spread=0.0,
    first=Spread(0.0, 0.0),
    louder_per_db=Spread(0.0, 0.0),
    short_attention=0.0,
    spam=0.0,
)


def fight_of(parameters=PARAMETERS, pairs: int = 300, seed: int = 0, count: int = 100) -> Duel:
    a, b = random_heard(parameters, pairs, 2 * seed), random_heard(parameters, pairs, 2 * seed + 1)
    hasty = random_heard(parameters, pairs, 100 + seed), random_heard(parameters, pairs, 200 + seed)
    return duel(draw_panel(parameters, seed, count), (a, b), hasty)


def test_groups_follow_their_shares_and_names_say_simulated():
    panel = draw_panel(PARAMETERS, 0)
    counts = np.bincount(panel.group) / len(panel)
    assert np.allclose(counts, PARAMETERS.shares, atol=0.005)
    assert all(name.startswith("simulated") for name in panel.names)
    assert 0.02 < panel.spam.mean() < 0.09 and (panel.plays_little <= panel.spam).all()
    assert 0 < panel.plays_little.sum() < panel.spam.sum()
    assert len(panel.counted) == len(panel) - panel.plays_little.sum()


def test_the_same_seed_gives_the_same_panel():
    one, again, other = (draw_panel(PARAMETERS, seed).weights for seed in (3, 3, 4))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_without_deviations_a_listener_has_the_utility_of_the_group():
    panel, clips = draw_panel(PLAIN, 0, 10), random_heard(PLAIN, 30, 0)
    worth = utilities(panel, clips)
    for column, group in enumerate(panel.group):
        assert np.allclose(worth[:, column], group_utility(clips, PLAIN.groups[group], PLAIN))


def test_chances_by_the_formula():
    panel = dataclasses.replace(draw_panel(PLAIN, 0, 2), first=np.array([0.5, 0.0]), spam=np.array([False, True]))
    fight = Duel(np.array([[1.0, 1.0]]), np.zeros((1, 2)), panel)
    takes_a, takes_b = chances(fight, 2.0, a_first=True)
    logistic = 1 / (1 + np.exp(-np.array([1.5 - PLAIN.tie, -1.5 - PLAIN.tie]) / 2.0))
    assert np.allclose([takes_a[0, 0], takes_b[0, 0]], logistic)
    assert takes_a[0, 1] == takes_b[0, 1] == 0.5  # clicks through
    behind, _ = chances(fight, 2.0, a_first=False)
    assert behind[0, 0] < takes_a[0, 0]


def test_louder_clip_and_short_attention():
    a, b = random_heard(PLAIN, 50, 0), random_heard(PLAIN, 50, 1)
    loud = dataclasses.replace(a, loudness_db=b.loudness_db + 3.0), dataclasses.replace(b)
    alike = draw_panel(PLAIN, 0, 3).take(np.zeros(3, int))
    hasty = np.array([False, False, True])
    panel = dataclasses.replace(alike, louder_per_db=np.array([0.1, 0.0, 0.0]), short_attention=hasty)
    prefix = random_heard(PLAIN, 50, 2), random_heard(PLAIN, 50, 3)
    difference = duel(panel, loud, prefix).difference
    assert np.allclose(difference[:, 0] - difference[:, 1], 0.3)
    worth = [utilities(panel, side)[:, 2] for side in prefix]
    assert np.allclose(difference[:, 2], worth[0] - worth[1])


def test_votes_come_as_often_as_the_chances_say():
    fight, noise = fight_of(pairs=1), 0.8
    many = Duel(np.repeat(fight.difference, 40_000, 0), np.repeat(fight.level, 40_000, 0), fight.panel)
    votes = cast_votes(many, noise, 4.0, np.random.default_rng(0))
    takes_a, takes_b = chances(fight, noise, a_first=True)
    share = {choice: np.mean([c == choice for c in votes.choice]) for choice in Choice}
    assert abs(share[Choice.A] - takes_a.mean()) < 0.01
    assert abs(share[Choice.B] - takes_b.mean()) < 0.01
    assert share[Choice.TIE] + share[Choice.NEITHER] > 0


def test_neither_where_both_clips_are_bad():
    panel = draw_panel(PLAIN, 0, 2)
    level = np.array([[PLAIN.neither - 0.1] * 2, [PLAIN.neither + 0.1] * 2])
    votes = cast_votes(Duel(np.zeros((2, 2)), level, panel), 1e-9, 4.0, np.random.default_rng(0))
    assert votes.choice == (Choice.NEITHER, Choice.TIE)


def test_spam_shows_in_the_played_ranges_or_claims_all():
    fight = fight_of(pairs=4000)
    votes = cast_votes(fight, 1.0, 4.0, np.random.default_rng(1))
    little = fight.panel.plays_little[votes.listener]
    assert little.any() and votes.heard_a_s[little].max() <= PARAMETERS.spam_short_s
    assert (votes.heard_a_s[~little] == 4.0).all() and (votes.heard_b_s[~little] == 4.0).all()
    liars = fight.panel.spam[votes.listener] & ~little
    picks = [votes.choice[i] for i in np.flatnonzero(liars)]
    assert set(picks) == {Choice.A, Choice.B} and 0.3 < np.mean([p == Choice.A for p in picks]) < 0.7


def test_agreement_is_what_two_listeners_show():
    fight, noise = fight_of(pairs=3000, count=50), 0.9
    rng = np.random.default_rng(2)
    answers = []
    for _ in range(2):
        sides = rng.random(3000) < 0.5
        ahead, behind = chances(fight, noise, True), chances(fight, noise, False)
        takes_a, takes_b = (np.where(sides[:, None], ahead[i], behind[i]) for i in (0, 1))
        listener = rng.integers(50, size=3000)
        draw, rows = rng.random(3000), np.arange(3000)
        a, b = takes_a[rows, listener], takes_b[rows, listener]
        answers.append((listener, np.where(draw < a, 1, np.where(draw < a + b, -1, 0))))
    both = (answers[0][1] != 0) & (answers[1][1] != 0) & (answers[0][0] != answers[1][0])
    seen = np.mean(answers[0][1][both] == answers[1][1][both])
    assert abs(seen - agreement(fight, noise)) < 0.03


def test_solved_noise_gives_the_wanted_agreement():
    fight = fight_of()
    noise = solve_noise(fight, 0.6)
    assert abs(agreement(fight, noise) - 0.6) < 1e-3
    with pytest.raises(UserError, match="sets a limit"):
        solve_noise(fight, 0.99)


def test_best_accuracy_by_hand():
    answers = Answers(np.array([0.6, 0.1]), np.array([0.2, 0.5]), np.array([0.7, 0.55]))
    assert best_accuracy(answers).value == pytest.approx((0.6 + 0.5) / (0.8 + 0.6))
    assert best_accuracy_known(answers).value == pytest.approx(1.25 / 1.4)
    assert rule_accuracy(answers, np.array([1.0, 1.0]), np.zeros(2)).value == pytest.approx((0.6 + 0.1) / 1.4)
    assert rule_accuracy(answers, np.zeros(2), np.zeros(2)).value == pytest.approx(0.5)


def test_no_rule_beats_the_best_accuracy_and_votes_reach_it():
    fight, noise = fight_of(pairs=4000), 0.9
    answers = expected_answers(fight, noise)
    best = best_accuracy(answers)
    takes_a, takes_b = mean_chances(fight, noise)
    mean = takes_a.mean(1) - takes_b.mean(1)
    assert rule_accuracy(answers, mean, np.zeros(4000)).value == pytest.approx(best.value)
    for seed in range(5):
        some = mean + 0.1 * np.random.default_rng(seed).standard_normal(4000)
        assert rule_accuracy(answers, some, np.zeros(4000)).value <= best.value
    swap = np.random.default_rng(0).random(4000) < 0.5  # the order of the sides at random
    turned = Duel(np.where(swap[:, None], -fight.difference, fight.difference), fight.level, fight.panel)
    votes = cast_votes(turned, noise, 4.0, np.random.default_rng(3))
    decided = np.array([choice in (Choice.A, Choice.B) for choice in votes.choice])
    took_a = np.array([choice == Choice.A for choice in votes.choice]) != swap
    assert abs(np.mean((took_a == (mean > 0))[decided]) - best.value) < 0.03
    assert best_accuracy_known(answers).value > best.value


def test_members_of_a_group():
    panel = draw_panel(PARAMETERS, 0)
    members = group_members(panel, "mellow")
    assert members.sum() > 0 and {panel.groups[i] for i in np.flatnonzero(members)} == {"mellow"}
    assert not (members & panel.spam).any()
