"""Policies on disk: a folder with config.json (kind and shapes), model.safetensors and vocabulary.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import UserError
from cluster.working_copy import local_copy
from codec.musicgen_folder import is_musicgen_folder, weight_files
from policy.musicgen.model import MusicGen
from policy.musicgen.save import save_musicgen
from policy.musicgen.weights import load_musicgen
from policy.port import Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"
FILES = (CONFIG, WEIGHTS, VOCABULARY)
TINY_MUSICLM = "tiny_musiclm"


def load_policy(directory: str | Path) -> Any:
    """The policy of a folder or s3://…, in float32 and evaluation mode: a TinyMusicLM, or a MusicGen of either layout.

    Raises UserError, in one line, where a file is missing, truncated, of another kind or of other shapes.
    """
    folder = local_copy(directory, "policy.checkpoint")
    if is_musicgen_folder(folder):
        return load_musicgen(folder)
    config = _read_json(folder, CONFIG)
    kind = config.get("kind")
    if kind not in LOADERS:
        raise UserError(f"policy.checkpoint: got kind {kind!r} in {folder / CONFIG}, allowed {', '.join(LOADERS)}")
    return LOADERS[kind](folder, config)


def save_policy(
    policy: Any, directory: str | Path, dtype: torch.dtype = torch.float32, beside: Sequence[Path] | None = None
) -> None:
    """Writes the three files, a MusicGen as transformers does; float16 halves the size, float32 keeps every bit.

    beside: directories that it was saved to before, with which a MusicGen shares the file of its frozen parts."""
    if isinstance(policy, MusicGen):
        return save_musicgen(policy, directory, dtype, beside)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in policy.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    tokenizer = policy.tokenizer
    vocabulary = {"words": list(tokenizer.words), "buckets": tokenizer.buckets, "length": tokenizer.length}
    (folder / VOCABULARY).write_text(json.dumps(vocabulary, indent=0), encoding="utf-8")
    config = {"kind": TINY_MUSICLM, **asdict(policy.config)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def policy_version(directory: str | Path) -> str:
    """Short content hash of a policy's folder: twelve hexadecimal digits."""
    digest, folder = hashlib.sha256(), local_copy(directory, "policy.checkpoint")
    if is_musicgen_folder(folder):
        for path in weight_files(folder):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]
    for name in FILES:
        digest.update(_existing(folder, name).read_bytes())
    return digest.hexdigest()[:12]


def _load_tiny_musiclm(folder: Path, config: dict[str, Any]) -> TinyMusicLM:
    shapes = {name: value for name, value in config.items() if name != "kind"}
    vocabulary = _read_json(folder, VOCABULARY)
    try:
        shapes["streams"] = tuple(Stream(**stream) for stream in shapes["streams"])
        tokenizer = TextTokenizer(tuple(vocabulary["words"]), int(vocabulary["buckets"]), int(vocabulary["length"]))
        policy = TinyMusicLM(TinyMusicLMConfig(**shapes), tokenizer)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"policy.checkpoint: got {folder} that describes no {TINY_MUSICLM}: {_line(error)}") from error
    _fill(policy, _read_tensors(folder), folder)
    return policy.eval()


LOADERS: dict[str, Callable[[Path, dict[str, Any]], TinyMusicLM]] = {TINY_MUSICLM: _load_tiny_musiclm}


def _fill(policy: TinyMusicLM, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    wanted = policy.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        there = "without" if name in wanted else "with an unknown"
        raise UserError(f"policy.checkpoint: got {folder / WEIGHTS} {there} tensor {name!r}, allowed those of {CONFIG}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"got {name} of shape {list(tensor.shape)}, allowed {list(wanted[name].shape)}"
            hint = f" (by the words of {VOCABULARY})" if "embed_text" in name else ""
            raise UserError(f"policy.checkpoint: in {folder}: {shapes}{hint}")
        if not tensor.isfinite().all():
            raise UserError(f"policy.checkpoint: in {folder}: got {name} with non-finite values, allowed finite ones")
    policy.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(_existing(folder, WEIGHTS))
    except (safetensors.SafetensorError, OSError) as error:
        what = "allowed a whole safetensors file"
        raise UserError(f"policy.checkpoint: got unreadable {folder / WEIGHTS} ({_line(error)}), {what}") from error


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(_existing(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"policy.checkpoint: got unreadable {folder / name} ({_line(error)}), allowed JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"policy.checkpoint: got {type(content).__name__} in {folder / name}, allowed a JSON object")
    return content


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        found = "a folder without it" if folder.is_dir() else "no such folder"
        raise UserError(f"policy.checkpoint: got {folder} ({found}), allowed a folder with {', '.join(FILES)}")
    return folder / name


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
