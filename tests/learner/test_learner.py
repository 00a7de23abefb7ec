"""The learner on a small real policy: identities of step 0, micro-batches, baselines, refusals, and that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.records import TrainingBatch
from cluster.catalogue import find_metric
from learner.learner import Learner, NonFiniteLoss, tensors_digest
from learner.optimiser import scheduled_rate
from policy.log_probs import gather, log_distribution
from policy.port import SamplingSettings
from policy.tiny_musiclm import TinyMusicLM
from tests.learner.tiny_learner import FRAMES, GUIDED, SETTINGS, batch, config, learner, tiny_policy


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def gradients(subject: Learner, data: TrainingBatch) -> dict[str, torch.Tensor]:
    """Unclipped gradients of a step, taken by way of Adam's first moment: m_1 = (1 - beta_1) * g."""
    subject.step(data)
    state = {**subject.policy_optimiser.state()}
    if subject.value_optimiser is not None:
        state |= {f"value.{name}": moments for name, moments in subject.value_optimiser.state().items()}
    return {name: moments["exp_avg"] / 0.1 for name, moments in state.items()}


@pytest.mark.parametrize("settings", [SETTINGS, GUIDED], ids=["plain", "guided"])
def test_step_zero_ratio_is_one_and_kl_zero(settings: SamplingSettings) -> None:
    subject = learner(config(), settings)
    metrics = subject.step(batch(subject.policy, settings=settings))
    assert metrics["importance_weight_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["importance_weight_max"] == pytest.approx(1, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < metrics["entropy"] < np.log(16)


@pytest.mark.parametrize("baseline", ["value", "leave_one_out", "batch_mean"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches_do_not_change_the_gradient(baseline: str, size: int) -> None:
    wide = {"baseline": baseline, "grad_clip": 1e9, "alpha": 0.3, "freeze": []}
    behaviour = batch(tiny_policy(seed=1))  # off-policy, and away from the reference: every term is active

    def run(micro_batch_size: int) -> dict[str, torch.Tensor]:
        subject = Learner(
            tiny_policy(0), tiny_policy(2), config(micro_batch_size=micro_batch_size, **wide), SETTINGS, 9
        )
        return gradients(subject, behaviour)

    whole, parts = run(8), run(size)
    assert whole.keys() == parts.keys() and any(name.startswith("value.") for name in whole) == (baseline == "value")
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)  # names the parameter that differs


def test_gradient_is_that_of_the_paper_by_autograd_of_the_plain_formula() -> None:
    """Against loops over rows and cells, with V = 0 (the value head's start) and the policy at a third place."""
    subject = Learner(tiny_policy(0), tiny_policy(2), config(grad_clip=1e9, alpha=0.3, freeze=[]), SETTINGS, 9)
    data = batch(tiny_policy(1))
    policy, reference = tiny_policy(0), tiny_policy(2)
    cells, text = torch.from_numpy(data.codes.astype(np.int64)), policy.encode_text(data.prompts)
    log_pi = log_distribution(policy, cells, text, SETTINGS)
    log_ref = log_distribution(reference, cells, text, SETTINGS).detach()
    total = torch.zeros(())
    for b, k, t in np.ndindex(*data.codes.shape):
        size, a = policy.streams[k].size, int(data.codes[b, k, t])
        weight = min(float(torch.exp(log_pi[b, k, t, a].detach())) / float(np.exp(data.log_probs[b, k, t])), 2.0)
        total = total + 0.7 * weight * log_pi[b, k, t, a] * float(data.rewards[b])
        p, q = log_pi[b, k, t, :size], log_ref[b, k, t, :size]
        total = total - 0.3 * (p.exp() * (p - q)).sum()
    (-total / data.codes.size).backward()
    found = gradients(subject, data)
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_reward_of_an_action_rises_and_the_kl_holds_it_back() -> None:
    """Reward = share of entry 3 in stream 0: REINFORCE must raise its probability; a strong KL must keep it down."""

    def trained(alpha: float) -> tuple[float, float]:
        subject = learner(config(alpha=alpha, learning_rate=3e-3, baseline="batch_mean", importance_clip=5.0))
        for step in range(12):
            data = batch(subject.policy, rows=32, seed=step)
            rewards = (data.codes[:, 0] == 3).mean(1).astype(np.float32)
            metrics = subject.step(replace(data, rewards=(rewards - rewards.mean()) / (rewards.std() + 1e-6)))
        probe = batch(subject.policy, rows=32, seed=99)
        cells = torch.from_numpy(probe.codes.astype(np.int64))
        with torch.no_grad():
            dist = log_distribution(subject.policy, cells, subject.policy.encode_text(probe.prompts), SETTINGS)
        return float(dist[:, 0, :, 3].exp().mean()), metrics["kl"]

    start = float(np.exp(log_p_of_entry_3(tiny_policy())))
    free, free_kl = trained(0.0)
    held, held_kl = trained(0.95)
    assert free > start * 1.2
    assert held_kl < free_kl / 2 and held < free


def log_p_of_entry_3(policy: TinyMusicLM) -> float:
    probe = batch(policy, rows=32, seed=99)
    cells = torch.from_numpy(probe.codes.astype(np.int64))
    with torch.no_grad():
        dist = log_distribution(policy, cells, policy.encode_text(probe.prompts), SETTINGS)
    return float(dist[:, 0, :, 3].exp().mean().log())


def test_value_network_starts_at_zero_and_learns_the_reward() -> None:
    subject = learner(config(value_learning_rate=3e-3, value_warmup_steps=40))
    data = batch(subject.policy)
    before = tensors_digest(subject.policy.state_dict())
    first = subject.step(data)
    assert first["value_loss"] == pytest.approx(0.5 * float(np.square(data.rewards).mean()), rel=1e-5)  # V = 0
    for _ in range(39):
        last = subject.step(data)
    assert last["value_loss"] < 0.3 * first["value_loss"] and last["explained_variance"] > 0.5
    assert last["learning_rate"] == 0 and tensors_digest(subject.policy.state_dict()) == before  # V alone learns
    subject.step(data)
    assert tensors_digest(subject.policy.state_dict()) != before


def test_value_network_does_not_see_the_actions_it_is_a_baseline_for() -> None:
    value = learner(config()).value
    assert value is not None
    torch.nn.init.normal_(value.head.weight)
    codes, text = torch.zeros(1, 3, FRAMES, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.int64)
    changed = codes.clone()
    changed[:, :, 3:] = 5
    plain, other = value(codes, text), value(changed, text)
    torch.testing.assert_close(plain[:, :4], other[:, :4])
    assert (plain[:, 4:] != other[:, 4:]).all()


def test_frozen_parameters_stay_and_the_reference_is_untouched() -> None:
    subject = learner(config(freeze=["*embed*"]))
    before = {name: tensor.clone() for name, tensor in subject.policy.state_dict().items()}
    reference = tensors_digest(subject.reference.state_dict())
    subject.step(batch(subject.policy))
    for name, tensor in subject.policy.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("embed" in name), name
    assert tensors_digest(subject.reference.state_dict()) == reference


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner\.freeze"):
        learner(config(freeze=["*"]))


def test_policy_handed_in_as_its_own_reference_is_copied() -> None:
    policy = tiny_policy()
    subject = Learner(policy, policy, config(), SETTINGS, 9)
    for step in range(2):
        metrics = subject.step(batch(policy, seed=step))
    assert metrics["kl"] > 1e-6


@pytest.mark.parametrize("baseline", ["value", "leave_one_out", "batch_mean"])
def test_batch_of_one(baseline: str) -> None:
    subject = learner(config(baseline=baseline, freeze=[]))
    metrics = subject.step(batch(subject.policy, rows=1))
    assert subject.version == 1
    assert all(np.isfinite(metrics[name]) for name in metrics if not name.startswith("reward_text"))


def test_metrics_of_a_batch() -> None:
    subject = Learner(tiny_policy(0), tiny_policy(2), config(), SETTINGS, 100)
    subject.version = 5
    data = batch(subject.policy, version=3)
    metrics = subject.step(data)
    assert metrics["staleness"] == 2 and metrics["staleness_max"] == 2
    assert metrics["sequences"] == 8 and metrics["tokens"] == 8 * 3 * FRAMES
    assert metrics["reward"] == pytest.approx(float(data.rewards.mean()), abs=1e-6)
    assert metrics["reward_quality"] == pytest.approx(float(data.scores["quality"].mean()), abs=1e-5)
    assert metrics["reward_text_adherence"] == pytest.approx(float(np.nanmean(data.scores["text_adherence"])), abs=1e-5)
    assert metrics["kl"] > 0 and metrics["kl_clip"] == pytest.approx(metrics["kl"] * 3 * FRAMES)
    by_stream = [value for name, value in metrics.items() if name.startswith("kl_stream_")]
    assert len(by_stream) == 3 and min(by_stream) > 0 and np.mean(by_stream) == pytest.approx(metrics["kl"])
    assert metrics["learning_rate"] == pytest.approx(1e-3)
    assert metrics["advantage_std"] == pytest.approx(float(data.rewards.std()), rel=1e-5)  # V starts at 0
    for name in metrics:
        find_metric(name)  # the catalogue is the law


def test_a_reward_missing_everywhere_has_no_metric_and_clipped_weights_are_counted() -> None:
    subject = learner(config(importance_clip=1.5))
    data = batch(subject.policy)
    log_probs = data.log_probs.copy()
    log_probs[:, 0] -= 1.0  # the behaviour found stream 0's cells less likely: ratio e, clipped at 1.5
    metrics = subject.step(replace(data, log_probs=log_probs, scores={"quality": np.full(8, np.nan, np.float32)}))
    assert "reward_quality" not in metrics
    assert metrics["importance_clipped"] == pytest.approx(1 / 3)
    assert metrics["importance_weight_max"] == 1.5
    assert metrics["importance_weight_mean"] == pytest.approx((1.5 + 1 + 1) / 3, rel=1e-5)


def poisoned(data: TrainingBatch, field: str) -> TrainingBatch:
    array = getattr(data, field).copy()
    array.flat[0] = np.nan
    return replace(data, **{field: array})


@pytest.mark.parametrize(("field", "name"), [("rewards", "rewards"), ("log_probs", "behaviour log-probabilities")])
def test_non_finite_input_stops_before_the_update(field: str, name: str) -> None:
    subject = learner(config())
    data = batch(subject.policy)
    before = tensors_digest(subject.policy.state_dict())
    with pytest.raises(NonFiniteLoss, match=f"learner: {name} not finite in step 1"):
        subject.step(poisoned(data, field))
    assert tensors_digest(subject.policy.state_dict()) == before and subject.version == 0


def test_non_finite_gradient_stops_before_the_update() -> None:
    subject = learner(config())
    data = batch(subject.policy)
    before = tensors_digest(subject.policy.state_dict())
    parameter = dict(subject.policy.named_parameters())["depth.heads"]
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLoss, match="grad_norm"):
        subject.step(data)
    assert tensors_digest(subject.policy.state_dict()) == before


def test_other_sampling_settings_are_refused() -> None:
    subject = learner(config())
    with pytest.raises(ValueError, match="sampled with"):
        subject.step(batch(subject.policy, settings=GUIDED))


def test_weights_and_probe_agree_with_a_policy_that_activates_them() -> None:
    subject = learner(config())
    subject.step(batch(subject.policy))
    weights = subject.weights()
    assert list(weights) == list(learner(config()).weights())  # one order, whatever was trained
    other = tiny_policy(seed=7)
    other.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    data = batch(other)
    cells, text = torch.from_numpy(data.codes.astype(np.int64)), other.encode_text(data.prompts)
    with torch.no_grad():
        expected = gather(log_distribution(other, cells, text, SETTINGS), cells).mean().item()
    assert subject.probe(data.codes, text.numpy()) == expected


def test_two_learners_are_equal_bit_for_bit() -> None:
    def run() -> str:
        subject = learner(config(micro_batch_size=3))
        for step in range(3):
            subject.step(batch(subject.policy, seed=step))
        return tensors_digest(subject.policy.state_dict())

    assert run() == run()


def rates(schedule: str, warmup: int, total: int) -> Sequence[float]:
    return [scheduled_rate(1.0, schedule, warmup, done, total) for done in range(total)]


def test_learning_rate_schedules() -> None:
    assert rates("constant", 2, 4) == [0.5, 1.0, 1.0, 1.0]
    assert rates("linear", 0, 4) == [1.0, 0.75, 0.5, 0.25]
    assert rates("linear", 2, 4) == [0.5, 0.75, 0.5, 0.25]
    assert scheduled_rate(1.0, "linear", 0, 9, 4) == 0.0  # a run resumed beyond its end
    with pytest.raises(ValueError, match="lr_schedule"):
        scheduled_rate(1.0, "cosine", 0, 0, 4)
