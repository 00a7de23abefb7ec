"""The network: the policy's own states, what padding and length may not change, what each pooling sees."""

from __future__ import annotations

import pytest
import torch

from rewards.preference_net import POOLINGS, PreferenceNet, PreferenceNetConfig, windowed
from tests.policy.policy_parts import PROMPTS, random_codes, small_policy


def make_net(pooling: str = "mean", scratch: bool = False, text: bool = True) -> PreferenceNet:
    net = PreferenceNet.from_policy(small_policy(), PreferenceNetConfig(pooling, 8, 0.1, text), scratch)
    with torch.no_grad():
        net.head[-1].weight.normal_(generator=torch.Generator().manual_seed(1))
        if net.query is not None:
            net.query.normal_(generator=torch.Generator().manual_seed(2))
    return net.eval()


def inputs(frames: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    policy = small_policy()
    return random_codes(policy, 4, frames), torch.full((4,), frames), policy.encode_text(PROMPTS)


def test_states_are_the_policys_own_one_frame_later():
    policy, net = small_policy(), make_net()
    codes, _, text = inputs()
    states = net.states(codes, text)
    torch.testing.assert_close(states[:, :-1], policy.temporal_states(codes, text)[:, 1:])
    longer = torch.cat([codes, codes[..., :1]], dim=2)  # whatever comes next, the last state is the policy's before it
    torch.testing.assert_close(states, policy.temporal_states(longer, text)[:, 1:])


def test_a_clip_of_the_policys_longest_length_is_read():
    policy, net = small_policy(), make_net()
    frames = policy.config.max_frames
    codes = random_codes(policy, 1, frames)
    assert net(codes, torch.tensor([frames]), policy.encode_text([""])).isfinite().all()


def test_from_scratch_is_the_same_network_with_other_weights():
    learnt, scratch = make_net(), make_net(scratch=True)
    assert [p.shape for p in learnt.parameters()] == [p.shape for p in scratch.parameters()]
    policy = small_policy()
    assert not torch.allclose(scratch.trunk.embed_codes.weight, policy.trunk.embed_codes.weight)
    torch.testing.assert_close(learnt.trunk.embed_codes.weight, policy.trunk.embed_codes.weight)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_last_frame_counts_and_padding_does_not(pooling: str):
    net = make_net(pooling)
    codes, frames, text = inputs()
    scores = net(codes, frames, text).detach()
    changed = codes.clone()
    changed[..., -1] = (changed[..., -1] + 1) % 16
    assert (net(changed, frames, text) != scores).all()
    padded = torch.cat([codes, torch.zeros_like(codes[..., :5])], dim=2)
    torch.testing.assert_close(net(padded, frames, text), scores)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_against_the_definition(pooling: str):
    net = make_net(pooling)
    codes, frames, text = inputs()
    states = net.states(codes, text)
    expected = {"last": states[:, -1], "mean": states.mean(1)}.get(pooling)
    if net.query is not None:
        weights = torch.exp(states @ net.query)
        expected = (states * (weights / weights.sum(1, keepdim=True))[..., None]).sum(1)
    if pooling == "statistics":
        expected = torch.cat([states.mean(1), states.std(1, correction=0)], dim=1)
    torch.testing.assert_close(net.features(codes, frames, text), expected)


def test_the_caption_counts_unless_switched_off():
    net, codes = make_net(), inputs()[0][:1].expand(2, -1, -1)
    frames = torch.full((2,), 9)
    with_text = net(codes, frames, net.encode_text(["slow piano", "fast flute"])).detach()
    assert abs(float(with_text[0] - with_text[1])) > 1e-4
    mute = make_net(text=False)
    assert torch.equal(mute.encode_text(["slow piano"]), mute.tokenizer([""]))


def test_a_long_clip_is_scored_by_its_first_and_last_window():
    codes = torch.arange(10).view(1, 1, 10)
    assert [part.flatten().tolist() for part in windowed(codes, 4)] == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert [part.shape[2] for part in windowed(codes, 10)] == [10]


def test_axes_are_uncorrelated_of_unit_spread_and_leave_out_what_does_not_vary():
    net = make_net()
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(400, 3, generator=generator) @ torch.randn(3, 32, generator=generator) + 5.0
    net.set_axes(clips)
    z = (clips - net.axes_mean) @ net.axes
    torch.testing.assert_close((z.T @ z / 400)[:3, :3], torch.eye(3), atol=1e-3, rtol=0)
    assert z[:, 3:].abs().max() == 0
