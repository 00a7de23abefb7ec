"""The objective of MusicRL as pure functions of tensors.

Per sequence a with terminal reward r, over the cells (k, t) of its codes (K streams, T frames), maximise

    J = (1 - alpha) * sum_kt w_kt * log pi(a_kt | s_kt) * sg[ r - V(s_t) ]
            - alpha * sum_kt KL( pi(. | s_kt) || ref(. | s_kt) )

and, for the baseline, minimise  sum_t 1/2 * (r - V(s_t))^2.   sg[.] passes no gradient.

Source: MusicRL, arXiv 2402.04229, section 3.2 (objective, value baseline, the per-step KL over the whole codebook);
rewards are terminal and undiscounted, so the reward-to-go is r at every t (RLAIF, arXiv 2309.00267, appendix F).

Every sum is divided by a count handed in by the caller, that of the whole batch. A batch cut into micro-batches, or
spread over ranks, therefore adds up to the same loss and the same gradient.

Shapes: B batch, K streams, T frames, V codebook entries. Streams may differ in size: a smaller one's log-probabilities
are padded to V with -inf, in policy and reference alike. Units: nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # of log(pi / mu) before exp: e^20 is finite in float32, and far above any clip in use


def full_kl(log_pi: Tensor, log_ref: Tensor) -> Tensor:
    """Exact KL(pi || ref) of each cell, summed over its whole codebook.

    KL = sum_v pi(v) * (log pi(v) - log ref(v)), with 0 * log 0 = 0. Differentiable in both arguments; the gradient
    with respect to pi is that of the divergence itself, never of a sampled estimate.
    Source: MusicRL section 3.2 (the printed formula lacks the weight pi(a|s); read as the KL that the text names).

    log_pi, log_ref [B, K, T, V] normalised log-probabilities -> [B, K, T] >= 0 up to rounding; +inf where pi gives
    probability to an entry that ref excludes.
    """
    _same_shape(log_pi, log_ref, rank=4)
    padding = log_pi == -torch.inf
    difference = (log_pi - log_ref).masked_fill(padding, 0.0)
    # exp(-inf) is 0, and its gradient 0 * 0: filling the difference alone keeps both value and gradient free of NaN
    return (log_pi.exp() * difference).sum(-1)


def entropy(log_pi: Tensor) -> Tensor:
    """-sum_v pi(v) log pi(v) of each cell. log_pi [B, K, T, V] -> [B, K, T]."""
    return -(log_pi.exp() * log_pi.masked_fill(log_pi == -torch.inf, 0.0)).sum(-1)


def importance_weights(log_pi: Tensor, log_mu: Tensor, clip: float) -> Tensor:
    """w = sg[ min( exp(log pi - log mu), c ) ]: corrects for the version lag of the behaviour mu; 1 on-policy.

    Source: truncated importance sampling per action, as the rho of V-trace (IMPALA, arXiv 1802.01561, section 4.1).

    log_pi, log_mu [B, K, T], of the sampled entries -> [B, K, T] in (0, clip], without gradient.
    """
    _same_shape(log_pi, log_mu, rank=3)
    log_ratio = (log_pi.detach() - log_mu).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return log_ratio.exp().clamp_max(clip)


def policy_loss(log_pi: Tensor, weights: Tensor, advantage: Tensor, tokens: int) -> Tensor:
    """- 1/tokens * sum w * log pi(a) * sg[A]: the negative REINFORCE term.

    Source: MusicRL section 3.2, first sum; the advantage carries no gradient (RLAIF, appendix F).

    log_pi, weights [B, K, T]; advantage [B, T], that of a frame's start, used by all K of its cells; tokens: cells of
    the whole batch -> scalar.
    """
    _same_shape(log_pi, weights, rank=3)
    _check(advantage, (log_pi.shape[0], log_pi.shape[2]), "advantage")
    return -(weights.detach() * log_pi * advantage.detach().unsqueeze(1)).sum() / tokens


def kl_loss(kl: Tensor, tokens: int) -> Tensor:
    """1/tokens * sum KL. Source: MusicRL section 3.2, second sum. kl [B, K, T] -> scalar, nats per token."""
    return kl.sum() / tokens


def combine(policy_term: Tensor, kl_term: Tensor, alpha: float) -> Tensor:
    """-J = (1 - alpha) * policy_term + alpha * kl_term, to be minimised. Source: MusicRL section 3.2."""
    return (1.0 - alpha) * policy_term + alpha * kl_term


def value_loss(values: Tensor, rewards: Tensor, frames: int) -> Tensor:
    """1/frames * sum_t 1/2 (r - V(s_t))^2. Source: MusicRL section 3.2 (squared error to the reward-to-go).

    values [B, T]; rewards [B]; frames: B * T of the whole batch -> scalar.
    """
    _check(rewards, (values.shape[0],), "rewards")
    return 0.5 * (rewards.detach()[:, None] - values).square().sum() / frames


def leave_one_out_baseline(rewards: Tensor, groups: Tensor) -> Tensor:
    """b_i = mean reward of the other rows of i's group: independent of row i, so the gradient stays unbiased.

    A row alone in its group takes the mean of all other rows; a row alone in the batch takes its own reward (there is
    nothing to compare it with: advantage 0).
    Source: REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al., arXiv 2402.14740, section 3.2).

    rewards [B]; groups [B] integer ids, equal for samples of one prompt -> [B].
    """
    _check(groups, tuple(rewards.shape), "groups")
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(False)
    alone = ~same.any(1)
    same[alone] = True
    same.fill_diagonal_(False)
    others = same.sum(1)
    mean = torch.where(same, rewards[None, :], torch.zeros_like(rewards)[None, :]).sum(1) / others.clamp_min(1)
    return torch.where(others > 0, mean, rewards)


def batch_mean_baseline(rewards: Tensor) -> Tensor:
    """b_i = mean reward of the batch, row i included (which scales the gradient by (B - 1) / B). [B] -> [B]."""
    return rewards.mean().expand_as(rewards)


def explained_variance(rewards: Tensor, baseline: Tensor) -> float:
    """1 - Var(r - b) / Var(r) over rows and frames: 1 perfect, 0 no better than a constant. 0 where r does not vary.

    rewards [B]; baseline [B, T].
    """
    target = rewards[:, None].expand_as(baseline)
    variance = target.var(unbiased=False)
    if not variance > 0:
        return 0.0
    return float(1.0 - (target - baseline).var(unbiased=False) / variance)


def _same_shape(left: Tensor, right: Tensor, rank: int) -> None:
    if left.ndim != rank or left.shape != right.shape:
        raise ValueError(
            f"expected two tensors of rank {rank} and one shape, got {tuple(left.shape)}, {tuple(right.shape)}"
        )


def _check(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
