"""Replay rows as Arrow record batches: one batch a task, one row a sequence. The schema is the run's public record.

row_id, task_id, row            row_id = task_id * 65536 + row: the same sequence has the same number on any actor
insert_order                    counts the store's inserts; tells a task from its earlier, dropped incarnation
epoch, policy_version           which incarnation of the run wrote it, with which weights
prompt, seed, temperature, guidance_scale
codes, log_probs                [K * T], row-major; K and T stand in the schema's metadata
reward                          NaN where a reward with weight is missing
score_NAME, status_NAME, version_NAME   raw score, "ok" or why it is missing, content hash of the reward model
crc32                           of the row's codes, log-probs, reward and numbers: a half-written row is found out
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from actors.records import ScoredRollout, TrainingBatch
from policy.port import SamplingSettings

MAX_TASK_ROWS = 1 << 16

Picked = tuple[pa.RecordBatch, np.ndarray]  # a task's batch and the rows [n] int64 meant


def row_ids(task_id: int, rows: np.ndarray | Sequence[int]) -> np.ndarray:
    """-> [n] int64."""
    return task_id * MAX_TASK_ROWS + np.asarray(rows, dtype=np.int64)


def split_row_id(row_id: int) -> tuple[int, int]:
    """-> (task_id, row)."""
    return divmod(int(row_id), MAX_TASK_ROWS)


def check_shapes(scored: ScoredRollout) -> None:
    """Raises ValueError where the parts of a rollout do not fit each other."""
    batch, expected = len(scored.task.prompts), scored.codes.shape
    if scored.codes.ndim != 3 or len(scored.codes) != batch or not 1 <= batch <= MAX_TASK_ROWS:
        raise ValueError(f"codes: got {expected} for {batch} prompts, allowed [B, K, T] with B in 1..{MAX_TASK_ROWS}")
    if scored.log_probs.shape != expected:
        raise ValueError(f"log_probs: got {scored.log_probs.shape}, allowed the shape of codes {expected}")
    columns = {"seeds": scored.task.seeds, "reward": scored.reward}
    columns |= {f"scores.{name}": values for name, values in scored.scores.scores.items()}
    columns |= {f"status.{name}": values for name, values in scored.scores.status.items()}
    for name, values in columns.items():
        if len(values) != batch:
            raise ValueError(f"{name}: got {len(values)} entries, allowed {batch}")


def trainable(scored: ScoredRollout) -> np.ndarray:
    """-> [B] bool: rows that have a reward and usable behaviour log-probabilities."""
    return np.isfinite(scored.reward) & np.isfinite(scored.log_probs).all(axis=(1, 2))


def encode(scored: ScoredRollout, insert_order: int) -> pa.RecordBatch:
    """A scored rollout as one record batch in the schema above."""
    batch, streams, frames = scored.codes.shape
    codes = np.ascontiguousarray(scored.codes, dtype=np.uint16)
    log_probs = np.ascontiguousarray(scored.log_probs, dtype=np.float32)
    reward = np.asarray(scored.reward, dtype=np.float32)
    ids = row_ids(scored.task.task_id, np.arange(batch))
    columns: dict[str, pa.Array] = {
        "row_id": pa.array(ids, pa.int64()),
        "task_id": _constant(scored.task.task_id, batch, pa.int64()),
        "row": pa.array(np.arange(batch), pa.int32()),
        "insert_order": _constant(insert_order, batch, pa.int64()),
        "epoch": _constant(scored.epoch, batch, pa.utf8()),
        "policy_version": _constant(scored.policy_version, batch, pa.int64()),
        "prompt": pa.array(scored.task.prompts, pa.utf8()),
        "seed": pa.array(scored.task.seeds, pa.int64()),
        "temperature": _constant(scored.task.sampling.temperature, batch, pa.float64()),
        "guidance_scale": _constant(scored.task.sampling.guidance_scale, batch, pa.float64()),
        "codes": pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), streams * frames),
        "log_probs": pa.FixedSizeListArray.from_arrays(pa.array(log_probs.reshape(-1)), streams * frames),
        "reward": pa.array(reward, pa.float32()),
    }
    table = scored.scores
    for name in sorted(table.scores):
        columns[f"score_{name}"] = pa.array(np.asarray(table.scores[name], dtype=np.float32))
        columns[f"status_{name}"] = pa.array(table.status[name], pa.utf8())
        columns[f"version_{name}"] = _constant(table.versions.get(name, ""), batch, pa.utf8())
    checks = _checksums(ids, insert_order, scored.policy_version, reward, codes, log_probs)
    columns["crc32"] = pa.array(checks, pa.uint32())
    schema = pa.schema(
        [(name, column.type) for name, column in columns.items()],
        metadata={"streams": str(streams), "frames": str(frames)},
    )
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def intact(batch: pa.RecordBatch) -> bool:
    """Whether every row carries the checksum of its contents."""
    codes, log_probs, reward = (_numpy(batch, name) for name in ("codes", "log_probs", "reward"))
    ids, order, version = _numpy(batch, "row_id"), _numpy(batch, "insert_order"), _numpy(batch, "policy_version")
    if len(batch) == 0 or (order != order[0]).any() or (version != version[0]).any():
        return False
    checks = _checksums(ids, int(order[0]), int(version[0]), reward, codes, log_probs)
    return bool((checks == _numpy(batch, "crc32")).all())


def trainable_rows(batch: pa.RecordBatch) -> np.ndarray:
    """`trainable` of a stored task. -> [B] bool."""
    log_probs = _numpy(batch, "log_probs").reshape(len(batch), -1)
    return np.isfinite(_numpy(batch, "reward")) & np.isfinite(log_probs).all(axis=1)


def missing_scores(batch: pa.RecordBatch) -> int:
    """Scores of a stored task, over all rewards, whose status is not "ok"."""
    status = (batch.column(field.name).to_pylist() for field in batch.schema if field.name.startswith("status_"))
    return sum(int(each != "ok") for column in status for each in column)


def sampling_of(batch: pa.RecordBatch) -> SamplingSettings:
    """The settings with which a stored task was sampled."""
    return SamplingSettings(batch.column("temperature")[0].as_py(), batch.column("guidance_scale")[0].as_py())


def shape_of(schema: pa.Schema) -> tuple[int, int]:
    """-> (K, T)."""
    return int(schema.metadata[b"streams"]), int(schema.metadata[b"frames"])


def decode(picked: Sequence[Picked]) -> TrainingBatch:
    """Stored rows -> what a learner step consumes, in the order given. A score that a task lacks is NaN."""
    parts = [batch.take(pa.array(rows)) for batch, rows in picked]
    streams, frames = shape_of(parts[0].schema)
    names = sorted({field.name for part in parts for field in part.schema if field.name.startswith("score_")})

    def joined(name: str) -> np.ndarray:
        return np.concatenate([_numpy(part, name) for part in parts])

    return TrainingBatch(
        row_ids=joined("row_id"),
        task_ids=joined("task_id"),
        prompts=tuple(prompt for part in parts for prompt in part.column("prompt").to_pylist()),
        codes=joined("codes").reshape(-1, streams, frames),
        log_probs=joined("log_probs").reshape(-1, streams, frames),
        policy_versions=joined("policy_version"),
        rewards=joined("reward"),
        scores={name.removeprefix("score_"): np.concatenate([_score(p, name) for p in parts]) for name in names},
        sampling=sampling_of(parts[0]),
    )


def _score(part: pa.RecordBatch, name: str) -> np.ndarray:
    if name in part.schema.names:
        return _numpy(part, name)
    return np.full(len(part), np.nan, dtype=np.float32)


def _checksums(
    ids: np.ndarray, insert_order: int, version: int, reward: np.ndarray, codes: np.ndarray, log_probs: np.ndarray
) -> np.ndarray:
    """-> [B] uint32."""
    codes, log_probs = codes.reshape(len(ids), -1), log_probs.reshape(len(ids), -1)
    out = np.empty(len(ids), dtype=np.uint32)
    for row, row_id in enumerate(ids):
        head = zlib.crc32(struct.pack("<qqqf", row_id, insert_order, version, reward[row]))
        out[row] = zlib.crc32(log_probs[row], zlib.crc32(codes[row], head))
    return out


def _numpy(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = batch.column(name)
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=True)


def _constant(value: object, rows: int, type_: pa.DataType) -> pa.Array:
    return pa.array([value] * rows, type_)
