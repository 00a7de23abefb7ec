"""The mixture, with numbers worked out by hand."""

import numpy as np
import pytest

from rewards.mixture import RewardSpec, mix, normalise

NAN = float("nan")


def test_each_reward_is_normalised_weighted_and_summed():
    scores = {"adherence": np.array([0.5, 0.9]), "quality": np.array([3.0, 4.0])}
    specs = {"adherence": RewardSpec(2.0, shift=0.5, scale=0.2), "quality": RewardSpec(0.5, shift=3.5, scale=0.25)}
    reward, normalised = mix(scores, specs)
    np.testing.assert_allclose(normalised["adherence"], [0.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(normalised["quality"], [-2.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(reward, [2.0 * 0.0 + 0.5 * -2.0, 2.0 * 2.0 + 0.5 * 2.0], atol=1e-6)
    assert reward.dtype == np.float32


def test_missing_stays_missing_and_is_never_zero():
    scores = {"a": np.array([1.0, NAN, 1.0, np.inf]), "b": np.array([1.0, 1.0, NAN, 1.0])}
    reward, normalised = mix(scores, {"a": RewardSpec(1.0), "b": RewardSpec(1.0)})
    assert np.isnan(reward).tolist() == [False, True, True, True]
    assert np.isnan(normalised["a"]).tolist() == [False, True, False, True]


def test_a_reward_of_weight_zero_is_shown_and_takes_no_part():
    scores = {"a": np.array([1.0, 2.0]), "watched": np.array([7.0, NAN])}
    reward, normalised = mix(scores, {"a": RewardSpec(1.0), "watched": RewardSpec(0.0, shift=5.0, scale=2.0)})
    np.testing.assert_array_equal(reward, [1.0, 2.0])
    assert normalised["watched"][0] == 1.0


def test_the_result_does_not_depend_on_the_order_of_arrival():
    # added in another order than that of the specs, the small score would drown
    scores = {"a": np.array([1e17]), "b": np.array([1.0]), "c": np.array([-1e17])}
    specs = {name: RewardSpec(1.0) for name in "acb"}
    one, _ = mix(scores, specs)
    other, _ = mix({name: scores[name] for name in "cba"}, specs)
    np.testing.assert_array_equal(one, [1.0])
    np.testing.assert_array_equal(other, [1.0])


@pytest.mark.parametrize("scores", [{"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}])
def test_scores_and_specs_must_name_the_same_rewards(scores):
    with pytest.raises(ValueError, match="scores of"):
        mix(scores, {"a": RewardSpec(1.0), "b": RewardSpec(1.0)})


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="different lengths"):
        mix({"a": np.ones(2), "b": np.ones(3)}, {"a": RewardSpec(1.0), "b": RewardSpec(1.0)})


def test_normalise_is_shift_and_scale():
    np.testing.assert_allclose(normalise(np.array([1.0, NAN]), RewardSpec(9.0, 3.0, 4.0)), [-0.5, NAN])
