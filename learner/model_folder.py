"""What a model folder says of itself without being loaded: its kind, its shapes, and whether its files are whole.

Reads config.json and the header of model.safetensors only; needs no torch, so that a command can refuse a bad path at
once. Loading the weights checks the rest.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cluster.working_copy import local_copy
from codec.musicgen_folder import LICENCE, MusicGenFolder, is_musicgen_folder, weight_files
from configs.errors import UserError

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"
MUSICGEN = "musicgen"
_HEADER_LIMIT_BYTES = 100_000_000  # the format's own


class ModelFolder:
    """A folder with config.json and model.safetensors, found whole.

    field: the setting that named it, for error lines. Raises UserError: missing, no folder, a file missing, config
    unreadable or of a kind not in `kinds`, weights truncated.
    """

    def __init__(self, path: str | Path, field: str, kinds: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
        self.path, self.field = local_copy(path, field), field
        self._check_files(others)
        self.config = self._read_config(kinds)
        self.kind: str = self.config["kind"]
        self.header = self._read_header()

    @property
    def parameters(self) -> int:
        """Numbers in the weights."""
        return sum(math.prod(entry["shape"]) for entry in self.header.values())

    @property
    def carried_bytes(self) -> int:
        """What a checkpoint of this policy carries beside its weights."""
        return 0

    def _check_files(self, others: tuple[str, ...]) -> None:
        if not self.path.exists():
            raise UserError(f"{self.field}: got {str(self.path)!r}, which does not exist; allowed a model folder")
        if not self.path.is_dir():
            raise UserError(f"{self.field}: got {str(self.path)!r}, which is a file; allowed a model folder")
        for name in (CONFIG, *others):
            if not (self.path / name).is_file():
                raise UserError(f"{self.field}: got {str(self.path)!r}, which has no {name}; allowed a model folder")

    def _read_config(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        try:
            config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.field}: {self.path / CONFIG} is not readable JSON: {one_line(error)}") from None
        if isinstance(config, dict) and "kind" not in config and config.get("model_type") == "encodec":
            config["kind"] = "encodec"  # as transformers saves it
        kind = config.get("kind") if isinstance(config, dict) else None
        if kind not in kinds:
            raise UserError(f"{self.field}: got {str(self.path)!r} of kind {kind!r}, allowed {', '.join(kinds)}")
        return config

    def _read_header(self) -> dict[str, dict[str, Any]]:
        path = self.path / WEIGHTS
        if not path.is_file():
            raise UserError(f"{self.field}: got {str(self.path)!r}, which has no {WEIGHTS}; allowed a model folder")
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                if not 0 < header_bytes <= min(size - 8, _HEADER_LIMIT_BYTES):
                    raise ValueError
                header = json.loads(file.read(header_bytes))
            header.pop("__metadata__", None)
            end = 8 + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except OSError as error:
            raise UserError(f"{self.field}: {path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{self.field}: {path} is truncated or no safetensors file ({size} bytes)") from None
        if size != end:
            raise UserError(f"{self.field}: {path} is truncated: got {size} bytes, allowed {end}")
        return header


class MusicGenModelFolder(ModelFolder):
    """A MusicGen directory of either layout, speaking as a model folder does of its policy and of its codec."""

    def __init__(self, path: str | Path, field: str) -> None:
        self.path, self.field, self.kind = local_copy(path, field), field, MUSICGEN
        folder = MusicGenFolder(self.path, field)
        self.shapes, self.layout = folder.shapes, folder.layout
        self.filters = int(folder.config["audio_encoder"]["num_filters"])
        stream = {"kind": "acoustic", "size": self.shapes.entries}
        self.config = {
            "kind": MUSICGEN,
            "streams": [stream] * self.shapes.codebooks,
            "frame_rate_hz": self.shapes.frame_rate_hz,
            "max_frames": self.shapes.max_frames,
        }
        self.header = {}

    @property
    def note(self) -> str:
        """What a person should know before a run on it."""
        sides = "stereo" if self.shapes.audio_channels == 2 else "mono"
        name = "MusicGen-Melody (by text alone)" if self.shapes.melody else "MusicGen"
        return f"policy: {name}, {sides}, {self.parameters / 1e6:,.1f} M parameters, {self.layout} layout; {LICENCE}"

    @property
    def parameters(self) -> int:
        """Numbers in the language model's weights."""
        return self.shapes.parameters

    @property
    def carried_bytes(self) -> int:
        """Text encoder and codec: at most what the directory holds."""
        return sum(path.stat().st_size for path in weight_files(self.path))


def open_model_folder(
    path: str | Path, field: str, kinds: tuple[str, ...], others: tuple[str, ...] = ()
) -> ModelFolder:
    """The folder of a policy or codec, of this project's own kinds or a MusicGen. Raises UserError as those do."""
    if is_musicgen_folder(local_copy(path, field)):
        return MusicGenModelFolder(path, field)
    return ModelFolder(path, field, kinds, others)


def one_line(error: BaseException) -> str:
    """An exception's text on one line, never long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
