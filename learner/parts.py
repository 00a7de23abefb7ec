"""Tensors in one safetensors file, or in one per rank, each with some rows of every tensor.

    value.safetensors                       whole tensors
    value-00000-of-00002.safetensors, …     rows cut as torch.chunk cuts; the header names each tensor's first row and
                                            the number of rows that it has in all

A reader asks for the rows that it needs, and is served from whichever files hold them: so what two ranks wrote, one or
three can read, and nobody reads it all. Scalars, and what is not spread over ranks, are whole in every file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from learner.ranks import own_part, own_rows

ROWS = "rows"  # key in a file's header: {tensor: [first row, rows in all]} of what is cut


def save_part(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes what this rank holds of each tensor. safetensors refuses views that share memory: own copies."""
    own = {name: own_part(tensor.detach()).cpu().clone().contiguous() for name, tensor in tensors.items()}
    cut = {name: [own_rows(tensor)[0], tensor.shape[0]] for name, tensor in tensors.items() if _is_cut(tensor)}
    save_file(own, file, metadata={ROWS: json.dumps(cut)} if cut else None)


def _is_cut(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and own_part(tensor.detach()).shape != tensor.shape


class Parts:
    """The files of one name in a folder, open for reading; a context manager.

    Raises OSError or SafetensorError where one cannot be read, ValueError where one of several is missing.
    """

    def __init__(self, folder: Path, name: str) -> None:
        paths = _paths(folder, name)
        if not paths:
            raise FileNotFoundError(2, "no such tensors", str(folder / f"{name}.safetensors"))
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._cut = [json.loads((file.metadata() or {}).get(ROWS, "{}")) for file in self._files]
        self.names: list[str] = sorted({key for file in self._files for key in file.keys()})  # noqa: SIM118

    @staticmethod
    def exist(folder: Path, name: str) -> bool:
        return bool(_paths(folder, name))

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()

    def read(self, name: str, like: Tensor | None = None) -> Tensor:
        """The rows of a tensor that this rank holds of `like`, which is spread as the reader wants it; all without.

        Raises KeyError for an unknown name, ValueError where rows are missing.
        """
        rows = self._rows(name)
        start, stop = own_rows(like) if like is not None and like.ndim and len(like) == rows else (0, rows)
        return self.read_rows(name, start, stop)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop); of a scalar, itself."""
        pieces = self._pieces(name)
        if not pieces[0].file.get_slice(name).get_shape():
            return pieces[0].file.get_tensor(name)
        found = [piece.read(name, start, stop) for piece in pieces]
        return torch.cat([part for part in found if len(part)] or found[:1])

    def _rows(self, name: str) -> int:
        return sum(piece.rows for piece in self._pieces(name))

    def _pieces(self, name: str) -> list[_Piece]:
        """Who holds which rows, in order; together all of them."""
        if name not in self.names:
            raise KeyError(name)
        pieces = []
        for file, cut in zip(self._files, self._cut, strict=True):
            if name not in file.keys():  # noqa: SIM118
                continue
            shape = file.get_slice(name).get_shape()
            rows = shape[0] if shape else 1
            if name not in cut:
                return [_Piece(file, 0, rows)]
            pieces.append(_Piece(file, cut[name][0], rows))
        pieces.sort(key=lambda piece: (piece.first, piece.rows))
        held = [row for piece in pieces for row in (piece.first, piece.first + piece.rows)]
        total = next(cut[name][1] for cut in self._cut if name in cut)
        if [0, *held[1:-1:2]] != held[::2] or held[-1] != total:
            raise ValueError(f"{name}: rows are missing")
        return pieces


@dataclass(frozen=True)
class _Piece:
    """Rows [first, first + rows) of a tensor, in one file."""

    file: Any
    first: int
    rows: int

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Those of the rows [start, stop) that are here."""
        begin = min(max(start - self.first, 0), self.rows)
        return self.file.get_slice(name)[begin : max(begin, min(stop - self.first, self.rows))]


def _paths(folder: Path, name: str) -> list[Path]:
    """Raises ValueError where one of several is missing."""
    single = folder / f"{name}.safetensors"
    if single.exists():
        return [single]
    found = {
        int(match[1]): (path, int(match[2]))
        for path in folder.glob(f"{name}-*.safetensors")
        if (match := re.fullmatch(rf"{name}-(\d+)-of-(\d+)\.safetensors", path.name))
    }
    sizes = {size for _, size in found.values()}
    if found and (len(sizes) != 1 or found.keys() != set(range(*sizes))):
        raise ValueError(f"{name}: {len(found)} parts of {max(sizes)}")
    return [found[rank][0] for rank in sorted(found)]
