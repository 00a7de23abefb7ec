"""Reads the corpus on disk: a table of facts and captions, and the sound beside it, memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cluster.errors import UserError
from world.attributes import ATTRIBUTES, Attributes

SPLITS = ("train", "judge", "valid", "test")


class CorpusSplit:
    """The clips of one split. Indices count from 0 within the split."""

    def __init__(self, table: pa.Table, rows: np.ndarray, pcm: np.ndarray, folder: Path) -> None:
        self.table = table
        self.captions: list[str] = table["caption"].to_pylist()
        self.clip_ids: list[str] = table["clip_id"].to_pylist()
        self._rows, self._pcm, self._folder = rows, pcm, folder

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def attributes(self) -> list[Attributes]:
        """The true attributes of every clip."""
        columns = [self.table[name].to_pylist() for name in ATTRIBUTES]
        return [dict(zip(ATTRIBUTES, values, strict=True)) for values in zip(*columns, strict=True)]

    def attribute_labels(self, name: str) -> Tensor:
        """int64 [len], the index of each clip's value in ATTRIBUTES[name]."""
        order = {value: index for index, value in enumerate(ATTRIBUTES[name])}
        return torch.tensor([order[value] for value in self.table[name].to_pylist()])

    def pcm(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """float32 [B, 64000] in [-1, 1], 16 kHz mono."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return torch.from_numpy(self._pcm[rows].astype(np.float32) / 32768.0)

    def scores(self) -> pa.Table:
        """The music of every clip as notes: columns clip_id, notes_per_s, notes, roots."""
        return pq.read_table(self._folder / "notes.parquet").take(pa.array(self._rows))


class Corpus:
    """A built corpus: `Corpus.open(dir).split("train").pcm([0, 1])`."""

    def __init__(self, folder: Path, table: pa.Table, pcm: np.ndarray) -> None:
        self.folder, self.table, self._pcm = folder, table, pcm

    @classmethod
    def open(cls, directory: str | Path) -> Corpus:
        """Raises UserError where the folder holds no finished corpus."""
        folder = Path(directory)
        for name in ("clips.parquet", "pcm.npy", "notes.parquet"):
            if not (folder / name).exists():
                raise UserError(f"corpus: got {folder} without {name}, allowed a folder made by world.build")
        table = pq.read_table(folder / "clips.parquet")
        pcm = np.load(folder / "pcm.npy", mmap_mode="r")
        if len(pcm) != len(table):
            raise UserError(f"corpus: got {len(pcm)} clips of sound for {len(table)} rows in {folder}, allowed equal")
        return cls(folder, table, pcm)

    def split(self, name: str) -> CorpusSplit:
        if name not in SPLITS:
            raise UserError(f"split: got {name!r}, allowed {', '.join(SPLITS)}")
        rows = np.flatnonzero(np.asarray(self.table["split"].to_pylist()) == name)
        return CorpusSplit(self.table.take(pa.array(rows)), rows, self._pcm, self.folder)
