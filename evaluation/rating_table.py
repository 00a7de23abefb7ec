"""The table of marks that side-by-side evaluation gives, whoever gave them: one row a rater and pair of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("rating_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("system_a", pa.string(), nullable=False),  # a is the clip shown first
        pa.field("system_b", pa.string(), nullable=False),
        pa.field("rater", pa.string(), nullable=False),  # pseudonym
        pa.field("rater_kind", pa.string(), nullable=False),  # "person" or "simulated"
        pa.field("score_a", pa.int8(), nullable=False),  # 1 (bad) to 5 (excellent)
        pa.field("score_b", pa.int8(), nullable=False),
    ]
)
LOWEST, HIGHEST = 1, 5


def read_ratings(path: str | Path) -> pa.Table:
    """The ratings of a Parquet file. Columns beside the schema's are left out.

    Raises UserError in one line: no such file, no Parquet, a column missing or of another kind, a mark that is none,
    a system against itself, one rating twice, none at all.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"ratings: got {str(path)!r}, allowed an existing Parquet file")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"ratings: {file} cannot be read ({' '.join(str(error).split())})") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"ratings: {file} has no column {missing[0]!r}, allowed {', '.join(SCHEMA.names)}")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"ratings: {file} does not fit ({' '.join(str(error).split())})") from None
    check_ratings(table, str(file))
    return table


def check_ratings(table: pa.Table, where: str) -> None:
    """Raises UserError naming the first row that is no rating."""
    if not len(table):
        raise UserError(f"ratings: {where} is empty, allowed at least one rating")
    for name in ("score_a", "score_b"):
        scores = table[name].to_numpy()
        wrong = np.flatnonzero((scores < LOWEST) | (scores > HIGHEST))
        if len(wrong):
            raise UserError(f"ratings: {where}, row {wrong[0] + 1}: got {name} {scores[wrong[0]]}, allowed 1 to 5")
    same = pc.indices_nonzero(pc.equal(table["system_a"], table["system_b"]))
    if len(same):
        system = table["system_a"][same[0].as_py()].as_py()
        raise UserError(f"ratings: {where}, row {same[0].as_py() + 1}: got {system!r} against itself, allowed another")
    if pc.count_distinct(table["rating_id"]).as_py() < len(table):
        raise UserError(f"ratings: {where} holds a rating_id twice, allowed each once")


def systems_of(table: pa.Table) -> list[str]:
    """Names in order of first appearance."""
    names = pa.chunked_array([table["system_a"].combine_chunks(), table["system_b"].combine_chunks()])
    return pc.unique(names).to_pylist()


def duels_of(table: pa.Table) -> list[tuple[str, str]]:
    """The pairs of systems that were rated against each other, each once, in order of first appearance."""
    found: dict[frozenset[str], tuple[str, str]] = {}
    for a, b in zip(table["system_a"].to_pylist(), table["system_b"].to_pylist(), strict=True):
        found.setdefault(frozenset((a, b)), (a, b))
    return list(found.values())


def marks(table: pa.Table, system: str, other: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All ratings of two systems against each other, whichever was shown first.

    -> the prompt of each, marks of `system` [R] and of `other` [R].
    """
    forward = pc.and_(pc.equal(table["system_a"], system), pc.equal(table["system_b"], other))
    backward = pc.and_(pc.equal(table["system_a"], other), pc.equal(table["system_b"], system))
    ahead, behind = table.filter(forward), table.filter(backward)
    prompts = ahead["prompt"].to_pylist() + behind["prompt"].to_pylist()
    own = np.concatenate([ahead["score_a"].to_numpy(), behind["score_b"].to_numpy()])
    others = np.concatenate([ahead["score_b"].to_numpy(), behind["score_a"].to_numpy()])
    return prompts, own.astype(np.float64), others.astype(np.float64)
