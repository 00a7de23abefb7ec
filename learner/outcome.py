"""What an update came to: losses and sums of a micro-batch, of a rank's share, of the whole batch, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.records import TrainingBatch
from learner import objective
from learner.ranks import Ranks
from policy.port import Stream


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch contributes: losses already divided by the whole batch's counts, sums for the metrics."""

    losses: dict[str, float]  # policy_loss (-J), value_loss
    sums: dict[str, float]  # kl, entropy, importance weights, |log ratio|, how many are clipped: over cells
    kl_by_stream: Tensor  # [K] float64, summed over cells
    importance_weight_max: float
    values: Tensor  # [B, T] the baseline that was used


def sum_of(outcomes: list[Outcome]) -> Outcome:
    """Micro-batches, in order, as one."""
    return Outcome(
        losses={name: sum(outcome.losses[name] for outcome in outcomes) for name in outcomes[0].losses},
        sums={name: sum(outcome.sums[name] for outcome in outcomes) for name in outcomes[0].sums},
        kl_by_stream=torch.stack([outcome.kl_by_stream for outcome in outcomes]).sum(0),
        importance_weight_max=max(outcome.importance_weight_max for outcome in outcomes),
        values=torch.cat([outcome.values for outcome in outcomes]),
    )


def over_ranks(own: Outcome, codes: Tensor, start: int, ranks: Ranks) -> Outcome:
    """One rank's outcome, its rows beginning at `start` -> that of all; codes [B, K, T]."""
    if ranks.size == 1:
        return own
    values = own.values.new_zeros(codes.shape[0], codes.shape[2], dtype=torch.float64)
    values[start : start + len(own.values)] = own.values
    scalars = torch.tensor([*own.losses.values(), *own.sums.values()], dtype=torch.float64, device=values.device)
    parts = [scalars, own.kl_by_stream, values.flatten()]
    total = ranks.add(torch.cat(parts)).split([len(part) for part in parts])
    numbers = iter(total[0].tolist())
    return Outcome(
        losses={name: next(numbers) for name in own.losses},
        sums={name: next(numbers) for name in own.sums},
        kl_by_stream=total[1],
        importance_weight_max=ranks.largest(own.importance_weight_max),
        values=total[2].view_as(values).to(own.values.dtype),
    )


def nothing(codes: Tensor) -> Outcome:
    """The outcome of no rows; codes [B, K, T] of the batch."""
    names = "kl", "entropy", "importance_weight", "mismatch", "clipped"
    return Outcome(
        losses={"policy_loss": 0.0, "value_loss": 0.0},
        sums=dict.fromkeys(names, 0.0),
        kl_by_stream=torch.zeros(codes.shape[1], dtype=torch.float64, device=codes.device),
        importance_weight_max=0.0,
        values=torch.zeros(0, codes.shape[2], device=codes.device),
    )


def batch_metrics(batch: TrainingBatch, version: int) -> dict[str, float]:
    """Metrics by catalogue name that a batch has before it is trained, by a learner at `version`."""
    staleness = version - batch.policy_versions.astype(np.int64)
    metrics = {
        "reward": float(np.mean(batch.rewards, dtype=np.float64)),
        "reward_std": float(np.std(batch.rewards, dtype=np.float64)),
        "staleness": float(staleness.mean()),
        "staleness_max": float(staleness.max()),
        "sequences": float(len(batch)),
        "tokens": float(batch.codes.size),
    }
    for name, scores in batch.scores.items():
        known = scores[np.isfinite(scores)].astype(np.float64)
        if known.size:
            metrics[f"reward_{name}"] = float(known.mean())
    return metrics


def cell_metrics(outcome: Outcome, codes: Tensor, rewards: Tensor) -> dict[str, float]:
    """Metrics by catalogue name of a whole batch: codes [B, K, T], rewards [B]."""
    tokens, rows = codes.numel(), codes.shape[0]
    sums, baseline = outcome.sums, outcome.values
    return {
        "kl": sums["kl"] / tokens,
        "kl_clip": sums["kl"] / rows,
        "entropy": sums["entropy"] / tokens,
        "importance_weight_mean": sums["importance_weight"] / tokens,
        "importance_weight_max": outcome.importance_weight_max,
        "sampler_mismatch": sums["mismatch"] / tokens,
        "importance_clipped": sums["clipped"] / tokens,
        "advantage_std": (rewards[:, None] - baseline).std(unbiased=False).item(),
        "explained_variance": objective.explained_variance(rewards, baseline),
    }


def kl_by_stream(outcome: Outcome, codes: Tensor, streams: Sequence[Stream]) -> dict[str, float]:
    """kl_stream_NAME, mean over the cells of a stream; codes [B, K, T]."""
    sums = outcome.kl_by_stream / (codes.shape[0] * codes.shape[2])
    names = [f"{stream.kind}_{place}" for place, stream in enumerate(streams)]
    return {f"kl_stream_{name}": value for name, value in zip(names, sums.tolist(), strict=True)}
