"""The one definition of the sampled distribution."""

from __future__ import annotations

import math

import torch
from policy_parts import PROMPTS, random_codes, small_policy

from policy.log_probs import distribution_of_logits, gather, log_distribution
from policy.port import SamplingSettings


def test_guidance_and_temperature_by_hand() -> None:
    conditioned, null = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    found = distribution_of_logits(conditioned, null, SamplingSettings(temperature=0.5, guidance_scale=3.0))
    # guided: 0.5 + 3 * 0.5 = 2 and 0.5 - 3 * 0.5 = -1; tempered: 4 and -2
    assert math.isclose(float(found[0]), -math.log1p(math.exp(-6.0)), abs_tol=1e-7)
    assert math.isclose(float(found[1]), -6.0 - math.log1p(math.exp(-6.0)), abs_tol=1e-6)


def test_guidance_one_is_no_guidance_and_makes_one_pass() -> None:
    policy, passes = small_policy(), []
    policy.register_forward_hook(lambda *_: passes.append(1))
    codes, text = random_codes(policy, 4, 5), policy.encode_text(PROMPTS)
    with torch.no_grad():
        plain = log_distribution(policy, codes, text, SamplingSettings(1.0, 1.0))
        assert len(passes) == 1
        near = log_distribution(policy, codes, text, SamplingSettings(1.0, 1.0 + 1e-6))
        assert len(passes) == 3
    torch.testing.assert_close(plain, near, atol=1e-4, rtol=0)


def test_the_null_condition_is_not_moved_by_guidance() -> None:
    policy = small_policy()
    codes, text = random_codes(policy, 2, 5), policy.encode_text(["", ""])
    with torch.no_grad():
        plain, guided = (log_distribution(policy, codes, text, SamplingSettings(0.8, g)) for g in (1.0, 4.0))
    torch.testing.assert_close(plain, guided, atol=1e-5, rtol=0)


def test_it_is_a_distribution_even_where_streams_differ_in_size() -> None:
    policy = small_policy(sizes=(16, 8, 12))
    codes, text = random_codes(policy, 4, 5), policy.encode_text(PROMPTS)
    for guidance in (1.0, 3.0):
        with torch.no_grad():
            log_dist = log_distribution(policy, codes, text, SamplingSettings(0.7, guidance))
        torch.testing.assert_close(log_dist.exp().sum(-1), torch.ones(4, 3, 5))
        assert not log_dist.isnan().any()
        assert log_dist[:, 1, :, 8:].isneginf().all()
        assert gather(log_dist, codes).isfinite().all()


def test_gather_takes_the_cells_of_the_codes() -> None:
    log_dist = torch.arange(24.0).view(1, 2, 3, 4)
    assert gather(log_dist, torch.tensor([[[0, 1, 2], [3, 0, 1]]])).tolist() == [[[0, 5, 10], [15, 16, 21]]]
