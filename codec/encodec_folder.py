"""EnCodec checkpoint directories: ours, the encodec package's own file, and transformers' layout.

    config.json        {"kind": "encodec", "model": "encodec_24khz", "bandwidth_kbps": 6.0}
    model.safetensors  the model's weights; or the package's own encodec_24khz-*.th beside config.json

or a directory as transformers saves EncodecModel: config.json with model_type encodec, model.safetensors (or
pytorch_model.bin), weight norm under either of its names. Its highest bandwidth is used, or `bandwidth_kbps` in its
config.json where that was added.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.errors import UserError
from codec.musicgen_names import codec_name

KIND = "encodec"
MODEL = "encodec_24khz"
_RATES = {24_000: "encodec_24khz", 48_000: "encodec_48khz"}
_SCALES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


@dataclass(frozen=True)
class EncodecSettings:
    """What config.json says. level_rms: loudness that tokens of the 48 kHz model are decoded at."""

    model: str
    bandwidth_kbps: float
    level_rms: float
    transformers: bool = False


def is_transformers_encodec(directory: Path) -> bool:
    """Whether the directory holds transformers' EncodecModel."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "encodec" and "kind" not in config


def read_settings(directory: Path, bandwidths: dict[str, tuple[float, ...]]) -> EncodecSettings:
    """config.json of either layout, checked. `bandwidths`: those of each model. Raises UserError."""
    try:
        config = json.loads((directory / "config.json").read_text())
        transformers = config.get("model_type") == "encodec" and "kind" not in config
        kind = KIND if transformers else config["kind"]
        model = _RATES.get(config["sampling_rate"], "") if transformers else config.get("model", MODEL)
        most = max(config["target_bandwidths"]) if transformers else 6.0
        settings = EncodecSettings(
            model, config.get("bandwidth_kbps", most), config.get("level_rms", 0.1), transformers
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"codec: got {directory} without a readable config.json, allowed: a codec directory") from error
    if kind != KIND:
        raise UserError(f"codec: got {directory} of kind {kind}, allowed: {KIND}")
    if model not in bandwidths:
        got = model or f"{config['sampling_rate']} Hz"
        raise UserError(f"codec model: got {got}, allowed: {', '.join(bandwidths)}")
    if settings.bandwidth_kbps not in bandwidths[model]:
        allowed = ", ".join(f"{rate:g}" for rate in bandwidths[model])
        raise UserError(f"codec bandwidth_kbps: got {settings.bandwidth_kbps}, allowed: {allowed}")
    if not isinstance(settings.level_rms, float) or not 0 < settings.level_rms <= 1:
        raise UserError(f"codec level_rms: got {settings.level_rms}, allowed: above 0, at most 1")
    return settings


def read_weights(directory: Path, settings: EncodecSettings, own: nn.Module) -> dict[str, Tensor]:
    """Weights under the encodec package's names. Raises UserError."""
    if settings.transformers:
        return _of_transformers(directory, own)
    packaged = sorted(directory.glob(f"{settings.model}-*.th"))
    file = directory / "model.safetensors"
    return _read(packaged[0] if packaged and not file.exists() else file, directory, settings.model)


def transformers_name(name: str) -> str:
    """The encodec package's name of a weight -> transformers', with weight_g and weight_v."""
    return codec_name(re.sub(r"\.(conv|convtr)\.norm\.", ".norm.", name))


def _of_transformers(directory: Path, own: nn.Module) -> dict[str, Tensor]:
    file = next((directory / n for n in ("model.safetensors", "pytorch_model.bin") if (directory / n).is_file()), None)
    stored = _read(file or directory / "model.safetensors", directory, "transformers' EncodecModel")
    found = {}
    for name in own.state_dict():
        theirs = transformers_name(name)
        short = next((suffix for suffix in _SCALES if theirs.endswith(suffix)), "")
        other = theirs.removesuffix(short) + _SCALES[short] if short else theirs
        if theirs in stored or other in stored:
            found[name] = stored[theirs if theirs in stored else other]
    return found  # what is missing, `load_state_dict` says


def _read(file: Path, directory: Path, model: str) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # a pickle: only plain tensors are let through
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"codec: got {directory} with missing or damaged weights, allowed: model.safetensors"
        ) from error
    except Exception as error:  # pickle.UnpicklingError and its kin
        raise UserError(f"codec: got {file}, which is no file of plain tensors, allowed: {model}'s own") from error
