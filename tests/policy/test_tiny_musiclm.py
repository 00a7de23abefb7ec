"""The network: what each cell may know, shapes, determinism."""

from __future__ import annotations

import fnmatch

import pytest
import torch
from policy_parts import PROMPTS, random_codes, small_policy

from policy.linear import Linear
from policy.operations import causal_attention, rotate
from policy.port import Policy
from policy.text import default_tokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig, rotary_turns


def test_it_is_a_policy() -> None:
    assert isinstance(small_policy(), Policy)


@pytest.mark.parametrize(("stream", "frame"), [(0, 0), (1, 3), (2, 3), (0, 6)])
def test_a_cell_is_known_to_later_cells_only(stream: int, frame: int) -> None:
    policy = small_policy()
    codes, text = random_codes(policy, 4, 7), policy.encode_text(PROMPTS)
    changed = codes.clone()
    changed[:, stream, frame] = (changed[:, stream, frame] + 1) % 16
    with torch.no_grad():
        moved = (policy(codes, text) - policy(changed, text)).abs().amax(dim=(0, 3)) > 1e-6  # [K, T]
    place = torch.arange(7)[None] * 3 + torch.arange(3)[:, None]  # order of generation
    assert torch.equal(moved, place > frame * 3 + stream)


def test_the_text_is_known_to_every_cell() -> None:
    policy = small_policy()
    codes = random_codes(policy, 1, 5)
    with torch.no_grad():
        slow, fast = (policy(codes, policy.encode_text([prompt])) for prompt in ("slow piano", "fast piano"))
    assert bool(((slow - fast).abs().amax(dim=(0, 3)) > 1e-6).all())


def test_states_of_the_trunk_are_one_a_frame_and_know_the_past_only() -> None:
    policy = small_policy()
    codes, text = random_codes(policy, 4, 5), policy.encode_text(PROMPTS)
    changed = codes.clone()
    changed[:, :, 2] = (changed[:, :, 2] + 1) % 16
    with torch.no_grad():
        before, after = policy.temporal_states(codes, text), policy.temporal_states(changed, text)
    assert before.shape == (4, 5, 32)
    assert torch.equal(before[:, :3], after[:, :3])
    assert bool(((before - after)[:, 3:].abs().amax(-1) > 1e-6).all())


def test_entries_outside_of_a_stream_are_impossible() -> None:
    policy = small_policy(sizes=(16, 8, 12))
    codes, text = random_codes(policy, 2, 3), policy.encode_text(PROMPTS[:2])
    outside = policy(codes, text).isneginf()
    assert outside.any(dim=(0, 2)).sum(-1).tolist() == [0, 8, 4]
    assert outside.all(dim=2).all(dim=0).sum(-1).tolist() == [0, 8, 4]


def test_forward_and_backward_are_the_same_bit_for_bit() -> None:
    runs = []
    for _ in range(2):
        policy = small_policy()
        codes, text = random_codes(policy, 4, 6), policy.encode_text(PROMPTS)
        loss = torch.nn.functional.cross_entropy(policy(codes, text).flatten(0, 2), codes.flatten())
        loss.backward()
        runs.append([loss.detach(), *(parameter.grad for parameter in policy.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_embeddings_are_called_so_and_nothing_else_is() -> None:
    names = dict(small_policy().named_parameters())
    embeddings = [name for name in names if fnmatch.fnmatch(name, "*embed*")]
    assert len(embeddings) == 5
    assert not any(name.endswith(("qkv.weight", "heads", "norm.weight")) for name in embeddings)


def test_the_default_is_small_enough_to_ship() -> None:
    policy = TinyMusicLM(TinyMusicLMConfig(), default_tokenizer())
    assert 2.0e6 < sum(parameter.numel() for parameter in policy.parameters()) < 2.55e6


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 3, 25)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    policy = small_policy()
    with pytest.raises(ValueError, match="allowed"):
        policy(torch.zeros(shape, dtype=torch.int64), policy.encode_text(["slow"]))


def test_dropout_is_off_unless_asked_for() -> None:
    policy = small_policy().train()
    codes, text = random_codes(policy, 2, 4), policy.encode_text(PROMPTS[:2])
    assert torch.equal(policy(codes, text), policy(codes, text))
    policy.set_dropout(0.5)
    assert not torch.equal(policy(codes, text), policy(codes, text))
    assert torch.equal(policy.eval()(codes, text), policy(codes, text))


def test_rotary_scores_depend_on_distance_alone() -> None:
    turns = torch.view_as_complex(rotary_turns(20, 8))
    query, key = torch.randn(8), torch.randn(8)
    scores = [rotate(query, turns[place]) @ rotate(key, turns[place - 3]) for place in (3, 9, 19)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3))
    # two dimensions at place 1 are turned by one radian
    quarter = rotate(torch.tensor([1.0, 0.0]), torch.view_as_complex(rotary_turns(2, 2))[1])
    torch.testing.assert_close(quarter, torch.tensor([0.5403023, 0.8414710]))


def test_grouped_attention_against_one_query_at_a_time() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    found = causal_attention(query, key, value).view(2, 5, 4, 8)
    for head in range(4):
        for place in range(5):
            scores = key[:, head // 2, : place + 1] @ query[:, head, place, :, None] / 8**0.5
            wanted = (scores.softmax(1) * value[:, head // 2, : place + 1]).sum(1)
            torch.testing.assert_close(found[:, place, head], wanted)


def test_the_fast_linear_layer_has_the_gradients_of_the_plain_one() -> None:
    torch.manual_seed(0)
    fast, plain = Linear(12, 7), torch.nn.Linear(12, 7, bias=False)
    plain.weight.data.copy_(fast.weight.data)
    x = torch.randn(3, 5, 12)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(part) for layer, part in zip((fast, plain), inputs, strict=True)]
    for out in outputs:
        (out * torch.arange(7.0)).square().sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)
