"""The objective against slow oracles shaped like the paper's formulas, literal numbers, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner import objective

B, K, T, V = 3, 2, 4, 5
SIZES = (5, 3)  # streams of unequal size: the second is padded with -inf


def log_probs(seed: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random normalised log-probabilities [B, K, T, V], padded where a stream is smaller."""
    logits = torch.randn(B, K, T, V, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    for k, size in enumerate(SIZES):
        logits[:, k, :, size:] = -torch.inf
    return logits.log_softmax(-1)


def chosen(log_pi: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Random codes [B, K, T] and their log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (B, T), generator=generator) for size in SIZES], 1)
    return codes, log_pi.gather(-1, codes[..., None]).squeeze(-1)


def oracle_j(
    log_pi: Tensor, log_ref: Tensor, log_mu: Tensor, codes: Tensor, r: Tensor, values: Tensor, alpha: float, c: float
) -> float:
    """J of MusicRL section 3.2, cell by cell, entry by entry, undivided."""
    policy_sum = kl_sum = 0.0
    for b in range(B):
        for t in range(T):
            for k, size in enumerate(SIZES):
                a = int(codes[b, k, t])
                log_p = float(log_pi[b, k, t, a])
                w = min(math.exp(log_p - float(log_mu[b, k, t])), c)
                policy_sum += w * log_p * float(r[b] - values[b, t])
                for v in range(size):
                    p, q = float(log_pi[b, k, t, v]), float(log_ref[b, k, t, v])
                    kl_sum += math.exp(p) * (p - q)
    return (1 - alpha) * policy_sum - alpha * kl_sum


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [1.0, 1.5])
def test_loss_is_minus_the_papers_objective_divided_by_tokens(alpha: float, clip: float) -> None:
    log_pi, log_ref = log_probs(0), log_probs(1)
    codes, log_a = chosen(log_pi, 2)
    log_mu = log_a + 0.5 * torch.randn(B, K, T, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rewards, values = torch.tensor([1.0, -2.0, 0.5]).double(), torch.linspace(-1, 1, B * T).double().view(B, T)

    weights = objective.importance_weights(log_a, log_mu, clip)
    policy_term = objective.policy_loss(log_a, weights, rewards[:, None] - values, B * K * T)
    kl_term = objective.kl_loss(objective.full_kl(log_pi, log_ref), B * K * T)
    loss = objective.combine(policy_term, kl_term, alpha)

    expected = -oracle_j(log_pi, log_ref, log_mu, codes, rewards, values, alpha, clip) / (B * K * T)
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_kl_of_two_coins() -> None:
    pi = torch.tensor([0.5, 0.5]).log().view(1, 1, 1, 2)
    ref = torch.tensor([0.25, 0.75]).log().view(1, 1, 1, 2)
    assert objective.full_kl(pi, ref).item() == pytest.approx(0.143841, abs=1e-6)  # 1/2 ln 2 + 1/2 ln 2/3
    assert objective.full_kl(ref, pi).item() == pytest.approx(0.130812, abs=1e-6)  # not symmetric
    assert objective.entropy(pi).item() == pytest.approx(math.log(2))


def test_kl_is_infinite_where_the_reference_excludes_an_entry() -> None:
    pi = torch.tensor([0.5, 0.5]).log().view(1, 1, 1, 2)
    ref = torch.tensor([1.0, 0.0]).log().view(1, 1, 1, 2)
    assert objective.full_kl(pi, ref).item() == math.inf
    assert objective.full_kl(ref, pi).item() == pytest.approx(math.log(2))  # 0 log 0 = 0


def test_kl_gradient_matches_the_closed_form_and_finite_differences() -> None:
    """d KL / d logit_v = p_v * (log p_v - log q_v - KL); the sampled log-ratio's gradient would be another one."""
    log_ref = log_probs(1)
    logits = log_probs(0).clone().requires_grad_()
    kl = objective.full_kl(logits.log_softmax(-1), log_ref)
    kl.sum().backward()
    p = logits.detach().log_softmax(-1)
    real = p > -torch.inf
    expected = torch.where(real, p.exp() * (torch.where(real, p - log_ref, 0.0) - kl.detach()[..., None]), 0.0)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-12)

    head = logits.detach()[..., :3].clone().requires_grad_()  # all entries real: finite differences apply
    reference = log_ref[..., :3].log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: objective.full_kl(x.log_softmax(-1), reference), (head,))


def test_padding_leaves_value_and_gradient_free_of_nan() -> None:
    logits = log_probs(0, dtype=torch.float32).requires_grad_()
    log_pi = logits.log_softmax(-1)
    total = objective.full_kl(log_pi, log_probs(1, dtype=torch.float32)).sum() + objective.entropy(log_pi).sum()
    total.backward()
    assert torch.isfinite(total)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 1, :, SIZES[1] :] == 0).all()


def test_step_zero_identities() -> None:
    """On-policy and at the reference: ratio 1, KL 0, in float32."""
    log_pi = log_probs(0, dtype=torch.float32)
    _, log_a = chosen(log_pi, 1)
    assert objective.full_kl(log_pi, log_pi.clone()).abs().max() <= 1e-6
    assert (objective.importance_weights(log_a, log_a.clone(), 2.0) == 1.0).all()


def test_importance_weights_literal_clipped_and_bounded() -> None:
    log_pi = torch.tensor([0.5, 0.2, 0.9, 1.0]).log().view(1, 1, 4)
    log_mu = torch.tensor([0.25, 0.4, 0.1, 1.0]).log().view(1, 1, 4)
    weights = objective.importance_weights(log_pi, log_mu, 3.0)
    torch.testing.assert_close(weights.flatten(), torch.tensor([2.0, 0.5, 3.0, 1.0]))
    extreme = objective.importance_weights(torch.zeros(1, 1, 1), torch.full((1, 1, 1), -500.0), math.inf)
    assert extreme.item() == pytest.approx(math.exp(objective.LOG_RATIO_BOUND))


def test_gradient_stops_at_advantage_and_weights() -> None:
    """The policy term's gradient with respect to log pi is -w * A / tokens: nothing through w, nothing into V."""
    log_a = torch.full((1, 1, 2), -1.0, requires_grad=True)
    values = torch.tensor([[0.5, 1.0]], requires_grad=True)
    weights = objective.importance_weights(log_a, torch.tensor([[[-1.0, -1.5]]]), 2.0)
    assert not weights.requires_grad
    objective.policy_loss(log_a, weights, 2.0 - values, tokens=2).backward()
    assert values.grad is None
    expected = torch.tensor([[[-1.0 * 1.5 / 2, -math.exp(0.5) * 1.0 / 2]]])
    torch.testing.assert_close(log_a.grad, expected)


def test_value_loss_literal_and_gradient() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, 2.0]], requires_grad=True)
    rewards = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = objective.value_loss(values, rewards, frames=4)
    assert loss.item() == pytest.approx(0.5 * (1 + 0 + 4 + 4) / 4)
    loss.backward()
    assert rewards.grad is None
    torch.testing.assert_close(values.grad, torch.tensor([[-0.25, 0.0], [0.5, 0.5]]))


def test_micro_batches_add_up_to_the_batch() -> None:
    log_pi, log_ref = log_probs(0), log_probs(1)
    codes, _ = chosen(log_pi, 2)
    advantage = torch.randn(B, T, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def gradient(cuts: list[slice]) -> Tensor:
        logits = log_pi.clone().requires_grad_()
        for rows in cuts:
            part = logits[rows].log_softmax(-1)
            log_a = part.gather(-1, codes[rows][..., None]).squeeze(-1)
            term = objective.policy_loss(log_a, torch.ones_like(log_a), advantage[rows], B * K * T)
            kl = objective.kl_loss(objective.full_kl(part, log_ref[rows]), B * K * T)
            objective.combine(term, kl, 0.2).backward()
        assert logits.grad is not None
        return logits.grad

    whole = gradient([slice(0, B)])
    torch.testing.assert_close(gradient([slice(0, 2), slice(2, 3)]), whole, rtol=0, atol=1e-12)


def test_leave_one_out_literal() -> None:
    rewards = torch.tensor([1.0, 3.0, 5.0, 10.0, 7.0])
    groups = torch.tensor([0, 0, 0, 4, 9])
    baseline = objective.leave_one_out_baseline(rewards, groups)
    # within the group of three: the other two's mean; alone: the mean of all others
    torch.testing.assert_close(baseline, torch.tensor([4.0, 3.0, 2.0, 16.0 / 4, 19.0 / 4]))
    assert objective.leave_one_out_baseline(torch.tensor([2.5]), torch.tensor([0])).item() == 2.5


def test_leave_one_out_against_loops() -> None:
    generator = torch.Generator().manual_seed(5)
    rewards, groups = torch.randn(12, generator=generator), torch.randint(0, 5, (12,), generator=generator)
    fast = objective.leave_one_out_baseline(rewards, groups)
    for i in range(12):
        others = [float(rewards[j]) for j in range(12) if j != i and groups[j] == groups[i]]
        others = others or [float(rewards[j]) for j in range(12) if j != i]
        assert float(fast[i]) == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_batch_mean_and_explained_variance() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(objective.batch_mean_baseline(rewards), torch.full((3,), 2.0))
    assert objective.explained_variance(rewards, rewards[:, None].expand(3, 4)) == pytest.approx(1.0)
    assert objective.explained_variance(rewards, torch.zeros(3, 4)) == pytest.approx(0.0)
    assert objective.explained_variance(torch.ones(3), torch.zeros(3, 4)) == 0.0
    half = torch.tensor([[1.5], [2.0], [2.5]])  # residuals are half as wide: a quarter of the variance is left
    assert objective.explained_variance(rewards, half) == pytest.approx(0.75)


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 4"):
        objective.full_kl(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="advantage"):
        objective.policy_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3), 24)
