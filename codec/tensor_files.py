"""Tensors of checkpoints that other programs wrote: read one by one, and never by running what a file holds.

safetensors files and torch's zip files are mapped, not read: a tensor's bytes reach memory when it is copied, so that a
model needs its own size and no more. A torch file is a pickle; only tensors and plain containers are let through. The
configurations of OmegaConf that some hold are read as plain data, without their classes.
"""

from __future__ import annotations

import collections
import contextlib
import json
import pickle
import re
import typing
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cluster.errors import UserError

INDEX_SUFFIX = ".index.json"
_PLAIN_GLOBALS: dict[str, Any] = {  # what a pickled OmegaConf names besides its own classes
    "typing.Any": typing.Any,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.str": str,
    "builtins.bool": bool,
    "collections.defaultdict": collections.defaultdict,
}


class StoredTensors(Mapping[str, Tensor]):
    """Tensors by name, each read from its file when it is asked for.

    readers: name -> what reads it; shapes: name -> shape, known without reading.
    """

    def __init__(
        self, readers: Mapping[str, Callable[[], Tensor]], shapes: Mapping[str, tuple[int, ...]], source: str
    ) -> None:
        self._readers, self.shapes, self.source = dict(readers), dict(shapes), source

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str) -> StoredTensors:
        """Tensors that are there already (mapped ones stay on disk)."""
        return cls(
            {name: _giver(tensor) for name, tensor in tensors.items()},
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            source,
        )

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._readers[name]()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(f"checkpoint: got {self.source} with an unreadable tensor {name}: {_line(error)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def below(self, prefix: str) -> StoredTensors:
        """Those whose name begins with `prefix`, without it."""
        chosen = {name.removeprefix(prefix): name for name in self._readers if name.startswith(prefix)}
        return self.renamed(chosen)

    def renamed(self, names: Mapping[str, str]) -> StoredTensors:
        """names: new name -> old name; the others are left out."""
        return StoredTensors(
            {new: self._readers[old] for new, old in names.items()},
            {new: self.shapes[old] for new, old in names.items()},
            self.source,
        )


def read_safetensors(folder: Path, name: str = "model.safetensors") -> StoredTensors:
    """One file, or the shards that `name`.index.json lists. Raises UserError: missing, truncated, inconsistent."""
    readers: dict[str, Callable[[], Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in shard_paths(folder, name):
        try:
            file = safe_open(path, "pt", device="cpu")
            for key in file.keys():  # noqa: SIM118  (no mapping)
                readers[key] = _safetensor_reader(file, key)
                shapes[key] = tuple(file.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"checkpoint: got {path}, which is truncated or no safetensors file: {_line(error)}"
            ) from None
    return StoredTensors(readers, shapes, str(folder))


def read_torch_shards(folder: Path, name: str = "pytorch_model.bin") -> StoredTensors:
    """torch files of tensors by name, one or several with an index. Raises UserError as `read_torch` does."""
    tensors: dict[str, Tensor] = {}
    for path in shard_paths(folder, name):
        content = read_torch(path)
        if not isinstance(content, dict):
            raise UserError(f"checkpoint: got {path} that holds a {type(content).__name__}, allowed tensors by name")
        tensors |= {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return StoredTensors.of(tensors, str(folder))


def shard_paths(folder: Path, name: str) -> list[Path]:
    """The files that hold `name`: itself, or those of its index. Raises UserError where one is missing."""
    index = folder / (name + INDEX_SUFFIX)
    if not index.is_file():
        return [folder / name]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"checkpoint: got unreadable {index}: {_line(error)}") from None
    for shard in names:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise UserError(f"checkpoint: got {folder} without {shard}, allowed every file that {index.name} lists")
    return [folder / shard for shard in names]


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, tensors mapped from disk. Nothing that the file holds is run.

    Raises UserError: missing, truncated, no torch file, or a pickle that names anything but tensors and plain data.
    """
    if not path.is_file():
        raise UserError(f"checkpoint: got {path.parent} without {path.name}")
    try:  # the format from before torch 1.6 is no zip: the restricted load below decides alone
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    except Exception as error:  # whatever a broken file makes of the reader
        _not_whole(path, error)
    strange = [name for name in foreign if not name.startswith("omegaconf.") and name not in _PLAIN_GLOBALS]
    if strange:
        raise UserError(
            f"checkpoint: got {path}, a pickle that names {strange[0]}; allowed tensors and plain data only. "
            "Nothing of it was run"
        )
    allowed: list[Any] = [(_stand_in(name), name) for name in foreign]
    with torch.serialization.safe_globals(allowed) if allowed else contextlib.nullcontext():
        return _plain(_load(path))


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a pickle that names {named[1]}" if named else "which is truncated or no torch file"
        raise UserError(f"checkpoint: got {path}, {what}; allowed plain tensors. Nothing of it was run") from None
    except Exception as error:  # whatever a broken file makes of the reader
        return _not_whole(path, error)


def _not_whole(path: Path, error: BaseException) -> typing.NoReturn:
    raise UserError(f"checkpoint: got {path}, which is truncated or no torch file: {_line(error)}") from None


class _Attributes:
    """Stands for an OmegaConf class while its pickle is read: keeps what it was given, does nothing."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"_content": state})


def _stand_in(name: str) -> Any:
    if name in _PLAIN_GLOBALS:
        return _PLAIN_GLOBALS[name]
    return type(name.rpartition(".")[2], (_Attributes,), {})


def _plain(value: Any) -> Any:
    """Stand-ins -> the dictionaries, lists and scalars that they hold."""
    if isinstance(value, _Attributes):
        held = vars(value)
        return _plain(held["_content"]) if "_content" in held else held.get("_val")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _giver(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _safetensor_reader(file: Any, key: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(key)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
