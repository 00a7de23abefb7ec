"""How far apart several clips of one prompt lie, beside an evaluation that has one clip of each prompt already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from codec.port import Codec
from evaluation.diversity import mean_pairwise_distance
from evaluation.evaluate import Evaluation, Panel, clip_seed, evaluate_policy
from evaluation.judges import Embedder
from evaluation.score_rows import DIVERSITY, SCHEMA, rows_table
from policy.port import Policy, SamplingSettings


def diversity_rows(
    policy: Policy,
    codec: Codec,
    embedder: Embedder | None,
    prompts: Sequence[str],
    evaluation: Evaluation,
    *,
    seeds: Sequence[int],
    seconds: float,
    sampling: SamplingSettings,
    batch_size: int,
    learner_step: int,
) -> pa.Table:
    """One row a prompt: the mean cosine distance between its clips, one for each of the S >= 2 `seeds`.

    `evaluation` began with these prompts and the first seed; clips of the other seeds are sampled here, so it costs
    (S - 1) · prompts clips more, which no judge scores. Rows of score_rows.SCHEMA, none without prompts or embedder.
    """
    if embedder is None or not prompts:
        return SCHEMA.empty_table()
    more = evaluate_policy(
        policy,
        codec,
        Panel((), embedder=embedder),
        prompts,
        seconds=seconds,
        seeds=seeds[1:],
        sampling=sampling,
        batch_size=batch_size,
    )
    every = np.concatenate([evaluation.embeddings[: len(prompts)], more.embeddings])  # [S · P, D]
    distances = mean_pairwise_distance(every.reshape(len(seeds), len(prompts), -1).swapaxes(0, 1))
    noise = [clip_seed(seeds[0], place) for place in range(len(prompts))]
    scores = {DIVERSITY: distances.astype(np.float32)}
    return rows_table(learner_step, range(len(prompts)), prompts, noise, scores, ())
