"""Directories of foreign models: checked before anything is read, hashed for the version, never fetched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.errors import UserError
from codec.onednn import multiply_by_onednn

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".th")


def local_folder(checkpoint: str, model: str, *names: str) -> Path:
    """The directory, with the files `names` in it. Raises UserError: hub names are not followed."""
    folder = Path(checkpoint).expanduser()
    if not checkpoint or not folder.is_dir():
        raise UserError(f"{model} checkpoint: got {checkpoint!r}, allowed a local directory (nothing is downloaded)")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{model} checkpoint: got {folder} without {name}")
    if not weight_files(folder):
        raise UserError(f"{model} checkpoint: got {folder} without weights ({', '.join(WEIGHT_SUFFIXES)})")
    return folder


def weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())


def content_version(folder: Path) -> str:
    """12 hex digits over the configuration and all weight files."""
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.json")), *weight_files(folder)]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def read_tensors(path: Path, model: str) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file or a pickle of plain tensors, which may lie under "state_dict".

    Pickles are read with only tensors, containers and numpy scalars let through. Raises UserError.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch each raise their own
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{model} checkpoint: got {path}, which cannot be read as plain tensors ({line})") from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{model} checkpoint: got {path} that holds no table of tensors")
    return tensors


def fill(module: nn.Module, tensors: dict[str, Tensor], place: Path, model: str, unused: tuple[str, ...] = ()) -> None:
    """Loads exactly; tensors whose names begin with one of `unused` may be left over. Raises UserError."""
    own = module.state_dict()
    left = [name for name in tensors if name not in own and not name.startswith(unused)]
    lacking = [name for name in own if name not in tensors]
    if lacking or left:
        what = f"without {lacking[0]}" if lacking else f"with an unknown {left[0]}"
        raise UserError(f"{model} checkpoint: got {place} {what}, allowed the weights of {type(module).__name__}")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            got, want = list(tensors[name].shape), list(tensor.shape)
            raise UserError(f"{model} checkpoint: got {place} with {name} of shape {got}, allowed {want}")
        if tensors[name].is_floating_point() and not bool(tensors[name].isfinite().all()):
            raise UserError(f"{model} checkpoint: got {place} with {name} that is not finite")
    module.load_state_dict({name: tensors[name].to(tensor.dtype) for name, tensor in own.items()})


@contextmanager
def refusing_downloads() -> Iterator[None]:
    """Hub clients inside find local files only."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"device: got {name!r}, allowed auto, cpu or cuda") from None


def frozen(model: Any, device: torch.device) -> Any:
    """A model that is only asked, on its device; on a CPU it multiplies by oneDNN."""
    multiply_by_onednn(model)
    return model.to(device).eval().requires_grad_(False)


def _numpy_scalars() -> list[Any]:
    """What training scripts leave beside their tensors: numpy numbers."""
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [np._core.multiarray.scalar, np.dtype, *kinds]  # type: ignore[attr-defined]


_HARMLESS = _numpy_scalars()
