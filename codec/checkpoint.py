"""Codec checkpoints: a folder of config.json ("kind" says which codec) and model.safetensors, never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster.errors import UserError
from cluster.working_copy import local_copy
from codec.encodec_folder import is_transformers_encodec
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from codec.musicgen_folder import is_musicgen_folder
from codec.port import Codec

MAGNITUDE = "magnitude_codec"
ENCODEC = "encodec"
KINDS = (MAGNITUDE, ENCODEC)


def load_codec(directory: str | Path) -> Codec:
    """The codec in `directory`, in evaluation mode. Raises UserError for anything that is not a whole codec."""
    folder = local_copy(directory, "codec.checkpoint")
    if is_transformers_encodec(folder):
        from codec.encodec_codec import load_encodec

        return load_encodec(folder)
    if is_musicgen_folder(folder):
        from codec.musicgen_codec import MusicGenCodec

        return MusicGenCodec.load(folder)
    config = read_config(folder, "codec", KINDS)
    if config["kind"] == ENCODEC:
        from codec.encodec_codec import load_encodec

        return load_encodec(folder)
    known = {field.name for field in fields(MagnitudeCodecConfig)}
    unknown = set(config) - known - {"kind"}
    if unknown:
        allowed = ", ".join(sorted(known))
        raise UserError(f"codec: got unknown key {sorted(unknown)[0]!r} in {folder}/config.json, allowed {allowed}")
    codec = MagnitudeCodec(MagnitudeCodecConfig(**{key: config[key] for key in known & set(config)}))
    load_weights(codec, folder, "codec")
    return codec.eval()


def save_codec(codec: MagnitudeCodec, directory: str | Path) -> None:
    """Writes config.json and half-precision model.safetensors; what is loaded again is what was written."""
    folder = Path(directory)
    save_weights(codec, folder, {"kind": MAGNITUDE, **asdict(codec.config)})


def read_config(folder: Path, name: str, kinds: tuple[str, ...]) -> dict:
    """config.json of a checkpoint folder; `name` is the field to blame."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{name}: got {folder} without config.json, allowed a checkpoint folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{name}: got an unreadable {path} ({error}), allowed JSON") from error
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind not in kinds:
        raise UserError(f"{name}: got a checkpoint of kind {kind!r} in {folder}, allowed {', '.join(kinds)}")
    return config


def save_weights(module: nn.Module, folder: Path, config: dict) -> None:
    """config.json and fp16 model.safetensors, each put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _half(tensor) for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / "model.partial")
    (folder / "model.partial").chmod(0o644)  # safetensors makes it readable by its owner only
    (folder / "model.partial").rename(folder / "model.safetensors")
    (folder / "config.partial").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "config.partial").rename(folder / "config.json")


def load_weights(module: nn.Module, folder: Path, name: str) -> None:
    """model.safetensors into `module`, exactly fitting, back to its own precision."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{name}: got {folder} without model.safetensors, allowed a checkpoint folder")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name}: got a broken {path} ({error}), allowed a whole safetensors file") from error
    own = module.state_dict()
    for key in [*own, *tensors]:
        if key not in tensors or key not in own or tensors[key].shape != own[key].shape:
            got = tuple(tensors[key].shape) if key in tensors else "nothing"
            allowed = tuple(own[key].shape) if key in own else "nothing"
            raise UserError(f"{name}: got {got} for weight {key!r} in {path}, allowed {allowed}")
        if not bool(torch.isfinite(tensors[key].float()).all()):
            raise UserError(f"{name}: got weight {key!r} with a value that is not finite in {path}, allowed finite")
    module.load_state_dict({key: tensors[key].to(own[key].dtype) for key in own})


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() else tensor
