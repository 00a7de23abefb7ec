"""A value head on the policy's own states: no second trunk, the gradients of the plain formula, exact resume."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner import objective
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner, tensors_digest
from learner.value import ValueHead
from policy.log_probs import gather, log_distribution
from policy.port import SamplingSettings
from tests.learner.rank_scenarios import musicgen
from tests.learner.tiny_learner import FRAMES, GUIDED, SETTINGS, batch, config, tiny_policy

POLICIES: dict[str, Callable[[int], Any]] = {"tiny": tiny_policy, "musicgen": musicgen}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=POLICIES)
def policy_of(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    return POLICIES[request.param]


def learner_on(policy_of: Callable[[int], Any], settings: SamplingSettings = SETTINGS, **changes: Any) -> Learner:
    return Learner(policy_of(0), policy_of(2), config(value_trunk="policy", **changes), settings, 100)


def head_of(subject: Learner) -> ValueHead:
    assert isinstance(subject.value, ValueHead)
    return subject.value


def test_what_is_shown_are_the_states_before_each_frame(policy_of: Callable[[int], Any]) -> None:
    policy, shown = policy_of(0), []
    codes, text = torch.zeros(1, len(policy.streams), FRAMES, dtype=torch.int64), policy.encode_text(["slow piano"])
    changed = codes.clone()
    changed[:, :, 3:] = 5
    with torch.no_grad():
        for cells in (codes, changed):
            log_distribution(policy, cells, text, GUIDED, shown.append)
        torch.testing.assert_close(shown[0], policy.trunk(codes, text))  # one pass is shown: not that of the null
    assert len(shown) == 2
    torch.testing.assert_close(shown[0][:, :4], shown[1][:, :4])
    assert (shown[0][:, -1] != shown[1][:, -1]).any()


def test_a_head_is_all_there_is_and_learns_while_the_policy_waits(policy_of: Callable[[int], Any]) -> None:
    subject = learner_on(policy_of, value_learning_rate=0.03, value_warmup_steps=40, value_gradient=1.0)
    assert list(head_of(subject).state_dict()) == ["head.weight", "head.bias"]
    data, before = batch(policy_of(0)), tensors_digest(subject.policy.state_dict())
    first = subject.step(data)
    assert first["value_loss"] == pytest.approx(0.5 * float(np.square(data.rewards).mean()), rel=1e-5)  # V = 0
    for _ in range(39):
        last = subject.step(data)
    assert last["value_loss"] < 0.7 * first["value_loss"] and last["explained_variance"] > 0.2
    assert tensors_digest(subject.policy.state_dict()) == before
    subject.step(data)
    assert tensors_digest(subject.policy.state_dict()) != before


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("settings", [SETTINGS, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("rows", [8, 3], ids=["one_pass", "micro_batches"])
def test_gradients_are_those_of_the_plain_formula(
    policy_of: Callable[[int], Any], settings: SamplingSettings, share: float, rows: int
) -> None:
    """Of policy loss + KL + share x value loss for the policy, of the value loss for the head; off-policy."""
    changes = {"value_gradient": share, "grad_clip": 1e9, "alpha": 0.3, "freeze": [], "micro_batch_size": rows}
    subject, data = learner_on(policy_of, settings, **changes), batch(policy_of(1), settings=settings)
    start(head_of(subject))
    expected = plain_gradients(policy_of, data, settings, share)
    subject.step(data)
    assert subject.value_optimiser is not None
    for network, optimiser in (("policy", subject.policy_optimiser), ("value", subject.value_optimiser)):
        for name, moments in optimiser.state().items():
            found = moments["exp_avg"] / 0.1 if moments else torch.zeros(())  # Adam's first moment is 0.1 g
            torch.testing.assert_close(found, expected[f"{network}.{name}"], rtol=1e-4, atol=2e-6, msg=name)


def plain_gradients(
    policy_of: Callable[[int], Any], data: Any, settings: SamplingSettings, share: float
) -> dict[str, Tensor]:
    policy, reference = policy_of(0), policy_of(2)
    head = start(ValueHead.on_policy(policy))
    codes, text = torch.from_numpy(data.codes.astype(np.int64)), policy.encode_text(data.prompts)
    log_dist = log_distribution(policy, codes, text, settings)
    log_ref = log_distribution(reference, codes, text, settings).detach()
    log_pi, rewards = gather(log_dist, codes), torch.from_numpy(data.rewards)
    states = policy.trunk(codes, text)
    values, values_of_head = head(states), head(states.detach())
    weights = (log_pi.detach() - torch.from_numpy(data.log_probs)).exp().clamp(max=2.0)
    policy_loss = -(weights * log_pi * (rewards[:, None] - values.detach())[:, None]).mean()
    kl = objective.full_kl(log_dist, log_ref).mean()
    value_loss = 0.5 * (values - rewards[:, None]).square().mean()
    (0.7 * policy_loss + 0.3 * kl + share * value_loss).backward()
    found = {f"policy.{name}": gradient_of(parameter) for name, parameter in policy.named_parameters()}
    head.zero_grad()
    (0.5 * (values_of_head - rewards[:, None]).square().mean()).backward()
    return found | {f"value.{name}": gradient_of(parameter) for name, parameter in head.named_parameters()}


def gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros(()) if parameter.grad is None else parameter.grad


def start(head: ValueHead) -> ValueHead:
    """Away from zero, where nothing would reach the trunk."""
    with torch.no_grad():
        width = head.head.weight.shape[1]
        head.head.weight.copy_(torch.linspace(-1, 1, width)[None] / width**0.5)
        head.head.bias.fill_(0.2)
    return head


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path, lora_rank: int) -> None:
    data = batch(musicgen(1))
    whole, again = (learner_on(musicgen, lora_rank=lora_rank, value_gradient=0.5) for _ in range(2))
    for _ in range(2):
        whole.step(data)
    path = save_checkpoint(tmp_path, 2, whole, {}, {})
    assert os.path.getsize(path / "value.safetensors") < 1000  # bytes: a head
    load_checkpoint(path, again)
    metrics = [subject.step(data) for subject in (whole, again)]
    assert metrics[0] == metrics[1]
    assert tensors_digest(whole.policy.state_dict()) == tensors_digest(again.policy.state_dict())
    assert tensors_digest(head_of(whole).state_dict()) == tensors_digest(head_of(again).state_dict())
