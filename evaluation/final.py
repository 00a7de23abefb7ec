"""The evaluation after a run: base against result on many held-out prompts, beside real clips.

base, result ── same prompts, same noise ──▶ scores, embeddings ─┐
result ── its own codes ──▶ KL from the reference ───────────────┼──▶ summary (evaluation_summary.json)
real clips ── own and shuffled captions ──▶ scores, embeddings ──┘
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from codec.port import Codec
from evaluation.comparison import Comparison, compare_steps
from evaluation.divergence import kl_per_clip
from evaluation.diversity import mean_pairwise_distance
from evaluation.evaluate import Evaluation, Panel, Progress, evaluate_policy
from evaluation.frechet import frechet_change
from evaluation.real_clips import RealScores, fitting_clips, score_real_clips
from evaluation.score_rows import prompt_means, score_matrix
from evaluation.statistics import (
    bootstrap_mean,
    bootstrap_position,
    bootstrap_ratio,
    holm,
    paired_gain,
)
from evaluation.test_set import TestSet
from policy.port import Policy, SamplingSettings

FEWEST_FITTING = 16  # prompts that real clips must fit before they are a yardstick of diversity


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and how."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    sampling: SamplingSettings
    batch_size: int = 32
    diversity_samples: int = 4  # clips of one prompt; below 2: no diversity
    diversity_prompts: int = 64
    learner_step: int = 1  # of the result; the base is step 0


@dataclass(frozen=True)
class FinalEvaluation:
    """Rows for `evaluation_final.parquet` and the summary beside it."""

    rows: pa.Table
    summary: dict[str, Any]


def evaluate_final(
    base: Policy,
    result: Policy,
    reference: Policy,
    codec: Codec,
    panel: Panel,
    plan: Plan,
    real: TestSet | None,
    progress: dict[str, Progress],
) -> FinalEvaluation:
    """Everything at once; `progress` is told of "base", "result", "real", "diversity" (names may be missing)."""
    before = _evaluate(base, codec, panel, plan, 0, progress.get("base"))
    after = _evaluate(result, codec, panel, plan, plan.learner_step, progress.get("result"))
    rows = pa.concat_tables([before.rows, after.rows])
    comparisons = compare_steps(rows, 0, plan.learner_step)
    scored = score_real_clips(real, codec, panel, plan.seconds, plan.batch_size, progress.get("real")) if real else None
    summary: dict[str, Any] = {
        "plan": {**dataclasses.asdict(plan), "prompts": len(plan.prompts)},
        "scores": scores_summary(comparisons),
        "kl": kl_summary(result, reference, after, plan),
        "positions": positions(rows, plan.learner_step, scored) if scored else {},
        "frechet": distance_summary(before, after, scored) if scored else {},
        "diversity": diversity_summary(base, result, codec, panel, plan, real, scored, progress.get("diversity")),
    }
    return FinalEvaluation(rows, plain(summary))


def scores_summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    adjusted = holm({c.judge: c.gain.p_value for c in comparisons})
    return {
        c.judge: {"in_reward": c.in_reward, **dataclasses.asdict(c.gain), "p_holm": adjusted[c.judge]}
        for c in comparisons
    }


def kl_summary(result: Policy, reference: Policy, after: Evaluation, plan: Plan) -> dict[str, Any]:
    """KL from the reference on the result's own clips, nats per clip (of the evaluation's length) and per token."""
    prompts = plan.prompts * len(plan.seeds)
    kl = kl_per_clip(result, reference, after.codes, prompts, plan.sampling, plan.batch_size)
    cells = int(np.prod(after.codes.shape[1:]))
    per_prompt = kl.reshape(len(plan.seeds), -1).mean(0)
    return {"clip": bootstrap_mean(per_prompt), "token": float(kl.mean() / cells), "seconds": plan.seconds}


def positions(rows: pa.Table, learner_step: int, real: RealScores) -> dict[str, Any]:
    """Where base (0) and result stand between real clips under shuffled captions, 0, and under their own, 1.

    Only judges that tell the two apart (the 95 % interval of the difference is above 0) have such a scale; of the
    others, which do not read the caption, the mean over real clips is given.
    """
    found = {}
    for judge, own in real.own.items():
        shuffled = real.shuffled[judge]
        known = np.isfinite(own) & np.isfinite(shuffled)
        if not known.any():
            continue
        entry: dict[str, Any] = {"shuffled": float(shuffled[known].mean()), "real": float(own[known].mean())}
        if bootstrap_mean(own[known] - shuffled[known]).low > 0:
            for name, step in (("base", 0), ("result", learner_step)):
                scores = prompt_means(score_matrix(rows, step, judge))
                entry[name] = bootstrap_position(scores, shuffled[known], own[known])
        found[judge] = entry
    return found


def distance_summary(before: Evaluation, after: Evaluation, real: RealScores) -> dict[str, Any]:
    """Frechet distance of base and result from real clips in the judge's space."""
    if before.embeddings.shape[1] == 0:
        return {}
    return dataclasses.asdict(frechet_change(before.embeddings, after.embeddings, real.embeddings))


def diversity_summary(
    base: Policy,
    result: Policy,
    codec: Codec,
    panel: Panel,
    plan: Plan,
    real: TestSet | None,
    scored: RealScores | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Mean cosine distance between several samples of one prompt: base, result, and real clips of one caption."""
    if panel.embedder is None or plan.diversity_samples < 2:
        return {}
    fitting = fitting_clips(plan.prompts, real) if real else {}
    chosen = list(fitting) if len(fitting) >= FEWEST_FITTING else list(range(len(plan.prompts)))
    prompts = tuple(plan.prompts[i] for i in chosen[: plan.diversity_prompts])
    several = dataclasses.replace(plan, prompts=prompts, seeds=tuple(range(plan.diversity_samples)))
    distances = []
    for turn, policy in enumerate((base, result)):
        half = _shifted(progress, turn) if progress else None
        embeddings = _evaluate(policy, codec, dataclasses.replace(panel, rewards=(), judges=()), several, 0, half)
        by_prompt = embeddings.embeddings.reshape(plan.diversity_samples, len(prompts), -1).swapaxes(0, 1)
        distances.append(mean_pairwise_distance(by_prompt))
    before, after = distances
    summary: dict[str, Any] = {
        "prompts": len(prompts),
        "samples": plan.diversity_samples,
        "base": bootstrap_mean(before),
        "result": bootstrap_mean(after),
        "change": paired_gain(before, after),
        "ratio_to_base": bootstrap_ratio(after, before),
    }
    if scored is not None and len(fitting) >= FEWEST_FITTING:
        groups = [scored.embeddings[fitting[i]] for i in chosen[: plan.diversity_prompts]]
        among = np.array([mean_pairwise_distance(group[None])[0] for group in groups])
        summary |= {"real": bootstrap_mean(among), "ratio_to_real": bootstrap_ratio(after, among)}
    return summary


def plain(value: Any) -> Any:
    """Dataclasses and numpy numbers -> what JSON holds; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _evaluate(
    policy: Policy, codec: Codec, panel: Panel, plan: Plan, step: int, progress: Progress | None
) -> Evaluation:
    return evaluate_policy(
        policy,
        codec,
        panel,
        plan.prompts,
        seconds=plan.seconds,
        seeds=plan.seeds,
        sampling=plan.sampling,
        batch_size=plan.batch_size,
        learner_step=step,
        progress=progress,
    )


def _shifted(progress: Progress, turn: int) -> Progress:
    """The progress of one of two equal halves."""
    return lambda done, whole: progress(turn * whole + done, 2 * whole)
