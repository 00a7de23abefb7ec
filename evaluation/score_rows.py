"""`evaluation.parquet`: one row per checkpoint, prompt, sample and judge."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import write_parquet_atomic

FILE_NAME = "evaluation.parquet"
MIXTURE = "reward"  # the judge name of the run's own mixture of normalised rewards
SECOND_PREFERENCE = "second_preference"  # that of the preference model that learnt from other listeners
DIVERSITY = "diversity"  # that of the mean distance between several clips of one prompt: a measure, no judge
SCHEMA = pa.schema(
    [
        ("learner_step", pa.int64()),
        ("prompt_id", pa.int64()),  # position in the list of evaluation prompts
        ("prompt", pa.string()),
        ("judge", pa.string()),
        ("in_reward", pa.bool_()),  # True: the run trains on it; False: held out
        ("seed", pa.int64()),  # noise of the clip: the same for every checkpoint
        ("score", pa.float32()),  # raw; null where the clip could not be scored
    ]
)


def read_rows(run_dir: Path | str) -> pa.Table:
    """The rows of a run, none if nothing was evaluated yet."""
    path = Path(run_dir) / FILE_NAME
    return pq.read_table(path, schema=SCHEMA) if path.exists() else SCHEMA.empty_table()


def append_rows(run_dir: Path | str, rows: pa.Table) -> None:
    """Add the rows of checkpoints; earlier rows of the same checkpoints go, so that a repeat changes nothing."""
    old = read_rows(run_dir)
    kept = old.filter(pc.invert(pc.is_in(old["learner_step"], pc.unique(rows["learner_step"]))))
    write_parquet_atomic(Path(run_dir) / FILE_NAME, pa.concat_tables([kept, rows.cast(SCHEMA)]))


def truncate_rows(run_dir: Path | str, last_step: int) -> None:
    """Forget checkpoints after `last_step` (a resumed run evaluates them again)."""
    old = read_rows(run_dir)
    kept = old.filter(pc.less_equal(old["learner_step"], last_step))
    if len(kept) < len(old):
        write_parquet_atomic(Path(run_dir) / FILE_NAME, kept)


def steps_of(rows: pa.Table) -> list[int]:
    return sorted(pc.unique(rows["learner_step"]).to_pylist())


def judges_of(rows: pa.Table, *, in_reward: bool | None = None) -> list[str]:
    """Names in order of first appearance, the mixture first; without DIVERSITY, which scores no clip."""
    chosen = rows if in_reward is None else rows.filter(pc.equal(rows["in_reward"], in_reward))
    names = [name for name in pc.unique(chosen["judge"]).to_pylist() if name != DIVERSITY]
    return sorted(names, key=lambda name: name != MIXTURE)


def score_matrix(rows: pa.Table, learner_step: int, judge: str) -> np.ndarray:
    """Scores of one checkpoint by one judge -> [P, S] float64 by prompt_id, then seed; NaN where missing."""
    chosen = rows.filter(pc.and_(pc.equal(rows["learner_step"], learner_step), pc.equal(rows["judge"], judge)))
    chosen = chosen.sort_by([("prompt_id", "ascending"), ("seed", "ascending")])
    scores = chosen["score"].to_numpy().astype(np.float64)
    prompts = pc.count_distinct(chosen["prompt_id"]).as_py()
    if prompts == 0:
        return np.empty((0, 1))
    if len(scores) % prompts:
        raise ValueError(f"{FILE_NAME}: step {learner_step}, {judge}: prompts have unequal numbers of samples")
    return scores.reshape(prompts, -1)


def prompt_means(scores: np.ndarray) -> np.ndarray:
    """[P, S] -> the mean of each prompt that has a score, over its scores, [at most P]."""
    known = np.isfinite(scores)
    scored = known.any(1)
    return np.where(known, scores, 0.0).sum(1)[scored] / known.sum(1)[scored]


def rows_table(
    learner_step: int,
    prompt_ids: Iterable[int],
    prompts: Iterable[str],
    seeds: Iterable[int],
    scores: dict[str, np.ndarray],
    in_reward: Iterable[str],
) -> pa.Table:
    """Rows of B clips (parallel iterables of length B) scored by each judge of `scores`, NAME -> [B]."""
    ids, texts, noise, rewarded = list(prompt_ids), list(prompts), list(seeds), set(in_reward)
    blocks = [
        pa.table(
            {
                "learner_step": np.full(len(ids), learner_step, np.int64),
                "prompt_id": np.asarray(ids, np.int64),
                "prompt": texts,
                "judge": [judge] * len(ids),
                "in_reward": np.full(len(ids), judge in rewarded),
                "seed": np.asarray(noise, np.int64),
                "score": pa.array(np.asarray(values, np.float32), from_pandas=True),
            },
            schema=SCHEMA,
        )
        for judge, values in scores.items()
    ]
    return pa.concat_tables(blocks) if blocks else SCHEMA.empty_table()
