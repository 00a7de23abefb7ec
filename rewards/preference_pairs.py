"""The table of compared pairs that a preference reward model learns from, whoever collected them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError

CODES = pa.list_(pa.list_(pa.uint16()))  # [K][T]
SCHEMA = pa.schema(
    [
        pa.field("vote_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("codes_a", CODES, nullable=False),
        pa.field("codes_b", CODES, nullable=False),
        # "a", "b", "tie" or "neither"
        pa.field("choice", pa.string(), nullable=False),
        pa.field("listener", pa.string(), nullable=False),  # pseudonym
        pa.field("listener_kind", pa.string(), nullable=False),  # "person" or "simulated"
        pa.field("group", pa.string(), nullable=False),  # "" where listeners are not grouped
        pa.field("policy_a", pa.string(), nullable=False),
        pa.field("policy_b", pa.string(), nullable=False),
        pa.field("seed_a", pa.int64(), nullable=False),
        pa.field("seed_b", pa.int64(), nullable=False),
        pa.field("heard_a_s", pa.float32(), nullable=False),
        pa.field("heard_b_s", pa.float32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),  # length of the clips
        pa.field("voted_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
CHOICES = ("a", "b", "tie", "neither")
A, B, TIE, NEITHER = range(len(CHOICES))


@dataclass(frozen=True)
class PairSet:
    """P votes as arrays. Codes are right-padded with zeros to the longest clip; `frames` says how long each is."""

    vote_ids: np.ndarray  # [P] str
    prompts: np.ndarray  # [P] str
    codes_a: np.ndarray  # [P, K, T] uint16
    codes_b: np.ndarray  # [P, K, T] uint16
    frames_a: np.ndarray  # [P] int64
    frames_b: np.ndarray  # [P] int64
    choices: np.ndarray  # [P] int8: A, B, TIE, NEITHER
    listeners: np.ndarray  # [P] str
    groups: np.ndarray  # [P] str
    policies_a: np.ndarray  # [P] str
    policies_b: np.ndarray  # [P] str

    def __len__(self) -> int:
        return len(self.vote_ids)

    def take(self, rows: np.ndarray) -> PairSet:
        """The votes at `rows` (indices or a mask)."""
        return PairSet(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    @property
    def decided(self) -> np.ndarray:
        """[P] bool: one clip was preferred."""
        return self.choices <= B

    @property
    def data_hash(self) -> str:
        """12 hex digits over ids and content of the votes, whatever their order and padding."""
        return hash_of(vote_digests(self))


def read_pairs(paths: str | Path | Sequence[str | Path]) -> PairSet:
    """The votes of one or several Parquet files with the columns of SCHEMA.

    A vote found twice counts once. Raises UserError in one line: no such file, a column missing or of another type,
    no row, an unknown choice, codes that are no [K, T] or of differing K, one vote_id with two contents.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    return pairs_of_table(pa.concat_tables([_read_table(Path(file)) for file in files]))


def write_pairs(path: str | Path, table: pa.Table) -> None:
    """A table of SCHEMA as a Parquet file, whole or not at all."""
    from cluster.storage import write_parquet_atomic

    write_parquet_atomic(Path(path), table.cast(SCHEMA))


def pairs_of_table(table: pa.Table) -> PairSet:
    """Arrays of a table of SCHEMA. Raises UserError like `read_pairs`."""
    if not len(table):
        raise UserError("pairs: got no votes, allowed at least one")
    table = table.combine_chunks()
    choices = np.array(table["choice"].to_pylist())
    unknown = ~np.isin(choices, CHOICES)
    if unknown.any():
        raise UserError(f"pairs: got choice {str(choices[unknown][0])!r}, allowed {', '.join(CHOICES)}")
    codes_a, frames_a = _codes(table["codes_a"], "codes_a")
    codes_b, frames_b = _codes(table["codes_b"], "codes_b")
    if codes_a.shape[1] != codes_b.shape[1]:
        raise UserError(f"pairs: got {codes_a.shape[1]} streams in codes_a, {codes_b.shape[1]} in codes_b")
    longest = max(codes_a.shape[2], codes_b.shape[2])
    text = {name: np.array(table[name].to_pylist(), dtype=object) for name in _TEXTS}
    pairs = PairSet(
        vote_ids=text["vote_id"],
        prompts=text["prompt"],
        codes_a=_padded(codes_a, longest),
        codes_b=_padded(codes_b, longest),
        frames_a=frames_a,
        frames_b=frames_b,
        choices=np.array([CHOICES.index(choice) for choice in choices], dtype=np.int8),
        listeners=text["listener"],
        groups=text["group"],
        policies_a=text["policy_a"],
        policies_b=text["policy_b"],
    )
    return _each_once(pairs)


def vote_digests(pairs: PairSet) -> list[bytes]:
    """[P] SHA-256 of each vote: its id, and everything that a model learns from."""
    digests = []
    for row in range(len(pairs)):
        words = [pairs.vote_ids, pairs.prompts, pairs.listeners, pairs.groups, pairs.policies_a, pairs.policies_b]
        digest = hashlib.sha256("\x1f".join(str(word[row]) for word in words).encode("utf-8", errors="replace"))
        for codes, frames in ((pairs.codes_a, pairs.frames_a), (pairs.codes_b, pairs.frames_b)):
            heard = codes[row, :, : frames[row]]
            digest.update(f"{heard.shape}".encode() + np.ascontiguousarray(heard, dtype="<u2").tobytes())
        digest.update(CHOICES[pairs.choices[row]].encode())
        digests.append(digest.digest())
    return digests


def hash_of(digests: list[bytes]) -> str:
    """12 hex digits of a set of votes."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:12]


_TEXTS = ("vote_id", "prompt", "listener", "group", "policy_a", "policy_b")


def _read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise UserError(f"pairs: got {str(path)!r}, which does not exist; allowed a Parquet file of votes")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"pairs: {path} is no readable Parquet file ({' '.join(str(error).split())[:120]})") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"pairs: {path} lacks the columns {', '.join(missing)}")
    try:
        return table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"pairs: {path} has other types ({' '.join(str(error).split())[:160]})") from None


def _codes(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """[K][T] lists -> ([P, K, T] uint16 padded with zeros, frames [P])."""
    clips = column.combine_chunks()
    clips = clips if isinstance(clips, pa.ListArray) else clips.chunk(0)
    rows = clips.flatten()
    streams = set(clips.value_lengths().to_numpy(zero_copy_only=False).tolist())
    if len(streams) != 1 or 0 in streams:
        raise UserError(f"pairs: {name} has clips of {sorted(streams)} streams, allowed one number above 0")
    lengths = rows.value_lengths().to_numpy(zero_copy_only=False).reshape(len(clips), -1).astype(np.int64)
    if (lengths != lengths[:, :1]).any() or (lengths == 0).any():
        raise UserError(f"pairs: {name} has a clip whose streams are empty or of unequal length")
    values = rows.flatten().to_numpy(zero_copy_only=False)
    frames = lengths[:, 0]
    padded = np.zeros((*lengths.shape, int(frames.max())), dtype=np.uint16)
    padded[np.arange(padded.shape[2]) < lengths[..., None]] = values
    return padded, frames


def _padded(codes: np.ndarray, frames: int) -> np.ndarray:
    return codes if codes.shape[2] == frames else np.pad(codes, ((0, 0), (0, 0), (0, frames - codes.shape[2])))


def _each_once(pairs: PairSet) -> PairSet:
    _, first, counts = np.unique(pairs.vote_ids.astype(str), return_index=True, return_counts=True)
    if counts.max() == 1:
        return pairs
    known: dict[str, bytes] = {}
    for vote_id, digest in zip(pairs.vote_ids, vote_digests(pairs), strict=True):
        if known.setdefault(vote_id, digest) != digest:
            raise UserError(f"pairs: got vote_id {vote_id!r} twice with different contents, allowed once")
    return pairs.take(np.sort(first))
