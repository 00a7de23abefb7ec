"""What the shipped parameters promise, measured on pairs of the shipped base policy; and the command."""

from __future__ import annotations

import pytest

from feedback.simulated_listeners import ListenerSettings, main, measure_listeners


@pytest.fixture(scope="module")
def measured():
    return {found.setting: found for found in measure_listeners(ListenerSettings(pairs=128, seed=5))}


def test_two_listeners_agree_as_often_as_each_setting_says(measured):
    assert set(measured) == {60, 75}
    for setting, found in measured.items():
        assert abs(100 * found.agreement - setting) < 3.0


def test_votes_are_about_taste_first(measured):
    """The paper's finding: adherence hardly helps to foretell a vote, quality somewhat, and most is neither."""
    for found in measured.values():
        best = found.best.value
        assert found.rules["adherence"].value < 0.5 + 0.6 * (best - 0.5)
        assert found.rules["quality"].value < 0.5 + 0.6 * (best - 0.5)
        assert found.rules["utility"].value > best - 0.02


def test_the_group_of_opposite_taste_needs_a_reward_of_its_own(measured):
    for found in measured.values():
        assert found.utility_on_group["mellow"].value < 0.56 < 0.65 < found.best_of_group["mellow"].value
        assert found.utility_on_group["lively"].value > found.best.value


def test_best_accuracy_is_ordered(measured):
    for found in measured.values():
        assert 0.5 < found.best.low < found.best.value < found.best_known.value < 1.0
    assert measured[75].best.value > measured[60].best.value + 0.05


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pairs=0"], "pairs: got 0"),
        (["policy=nowhere"], "policy: got 'nowhere'"),
        (["listeners=nowhere.yaml"], "listeners: nowhere.yaml cannot be read"),
        (["prompts=nowhere.txt"], "prompts:"),
        (["colour=red"], "colour: unknown key"),
    ],
)
def test_command_says_what_is_wrong(words, problem, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_calibration_finds_the_stated_noise(capsys):
    assert main(["calibrate", "pairs=40", "seconds=2"]) == 0
    out = capsys.readouterr().out
    assert "setting agreement=60" in out and " 60.0 %" in out and " 75.0 %" in out
