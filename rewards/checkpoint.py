"""A reward model or judge on disk: a directory with config.json and model.safetensors, never a pickle.

config.json holds "kind", what the architecture needs, "shift" and "scale". Reading and checking them needs no torch,
so that a run can refuse a bad checkpoint within a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.json"  # what the model card repeats; nothing reads it to score
_NOT_HASHED = ("shift", "scale", "measured")  # they change how a score is used, not the score


@dataclass(frozen=True)
class Checkpoint:
    """What a directory holds. `version` is 12 hex digits over architecture and weights."""

    config: dict[str, Any]
    weights: dict[str, Tensor]  # float32
    version: str


def save_checkpoint(directory: str | Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Writes both files, each replaced in one step. Floating-point weights are stored as float16."""
    import torch
    from safetensors.torch import save

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    halves = {
        name: (t.detach().to(torch.float16) if t.is_floating_point() else t.detach()).contiguous().cpu()
        for name, t in weights.items()
    }
    _replace(folder / WEIGHTS_FILE, save(halves))
    write_config(folder, config)


def write_config(directory: str | Path, config: dict[str, Any]) -> None:
    """Replaces config.json in one step."""
    _replace(Path(directory) / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())


def write_training(directory: str | Path, entries: dict[str, Any]) -> None:
    """What a model declares of its own training, for the model card."""
    _replace(Path(directory) / TRAINING_FILE, (json.dumps(entries, indent=1) + "\n").encode())


def load_checkpoint(directory: str | Path, kind: str) -> Checkpoint:
    """Reads a checkpoint of `kind`. Raises UserError: missing, truncated, or of another kind."""
    import torch
    from safetensors.torch import load

    config = check_checkpoint(directory, kind)
    data = (Path(directory) / WEIGHTS_FILE).read_bytes()
    try:
        weights = load(data)
    except Exception as error:  # safetensors has an exception of its own, without a common base
        raise UserError(f"{directory}/{WEIGHTS_FILE}: cannot be read ({error}), allowed a safetensors file") from None
    floats = {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in weights.items()}
    return Checkpoint(config, floats, content_version(config, data))


def load_module(module: Any, checkpoint: Checkpoint, directory: str | Path) -> None:
    """Puts the weights into a torch module and leaves it in evaluation mode. Raises UserError where they do not fit."""
    try:
        module.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{directory}/{WEIGHTS_FILE}: does not fit its {CONFIG_FILE} ({first})") from None
    module.eval().requires_grad_(False)


def check_checkpoint(directory: str | Path, kind: str) -> dict[str, Any]:
    """The config of a complete checkpoint of `kind`. Reads config and the weights' header only; no torch.

    Raises UserError in one line: not a directory, a file missing, config not JSON, another kind, a normalisation that
    is no number, weights truncated.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise UserError(f"{kind} checkpoint: got {str(directory)!r}, allowed an existing directory")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{kind} checkpoint: got {folder} without {name}, allowed a directory with both files")
    config = read_config(folder)
    if config.get("kind") != kind:
        raise UserError(f"{kind} checkpoint: got kind {config.get('kind')!r} in {folder}, allowed {kind!r}")
    shift, scale = config.get("shift", 0.0), config.get("scale", 1.0)
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (shift, scale))
    if not numbers or scale <= 0:
        raise UserError(f"{folder}/{CONFIG_FILE}: got shift {shift}, scale {scale}, allowed finite and scale > 0")
    _check_safetensors(folder / WEIGHTS_FILE)
    return config


def read_config(directory: str | Path) -> dict[str, Any]:
    """config.json as a dict. Raises UserError where it is missing or no JSON object."""
    path = Path(directory) / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}), allowed a JSON object") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: got a JSON {type(config).__name__}, allowed an object")
    return config


def version_of(directory: str | Path) -> str:
    """The version of a complete checkpoint, without loading it."""
    return content_version(read_config(directory), (Path(directory) / WEIGHTS_FILE).read_bytes())


def content_version(config: dict[str, Any], weights: bytes) -> str:
    """12 hex digits of sha256 over the architecture and the stored weights; normalisation left out."""
    shape = {name: value for name, value in config.items() if name not in _NOT_HASHED}
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode() + weights).hexdigest()[:12]


def _check_safetensors(path: Path) -> None:
    """The header must be JSON and the file as long as the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(header_bytes)) if 0 < header_bytes <= size - 8 else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise UserError(f"{path}: truncated or no safetensors file ({size} bytes), allowed a complete one")
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise UserError(f"{path}: truncated, got {size} bytes, allowed {expected}")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
