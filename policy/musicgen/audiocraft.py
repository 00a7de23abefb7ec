"""Writes a MusicGen as audiocraft reads it: a directory for `MusicGen.get_pretrained`.

state_dict.bin               the language model and its configuration
compression_state_dict.bin   the codec and its configuration
text_encoder/                T5, which audiocraft fetches by its name and this project reads from here
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import AUDIOCRAFT, CODEC_FILE, CONFIG, LANGUAGE_FILE, MusicGenFolder
from codec.musicgen_melody import RADIX, WINDOW
from codec.musicgen_names import audiocraft_name
from codec.tensor_files import StoredTensors
from policy.musicgen.audiocraft_config import codec_config, language_config
from policy.musicgen.model import MusicGen
from policy.musicgen.save import (
    LICENCES,
    TOKENIZER_FILES,
    source_of,
    text_config,
    text_tensors,
    write_json,
    write_shards,
)
from policy.musicgen.weights import stored_tensors

_ENDINGS = {
    "weight_g": "weight_g",
    "weight_v": "weight_v",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
VERSION = "1.3.0"  # of audiocraft, whose form is written


def save_audiocraft(policy: MusicGen, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the three; float32 keeps every bit, float16 is what Meta's own files hold."""
    folder, source = Path(directory), source_of(policy)
    folder.mkdir(parents=True, exist_ok=True)
    state = _language_state(policy, dtype)
    if policy.shapes.melody:
        state[WINDOW] = _window(source)
    _write(folder / LANGUAGE_FILE, state, language_config(policy, source))
    _write(folder / CODEC_FILE, codec_state(source), codec_config(source))
    text = folder / "text_encoder"
    text.mkdir(exist_ok=True)
    found = text_tensors(policy, source)
    write_shards(text, ((name, found[name].clone()) for name in found))
    write_json(text / CONFIG, {"architectures": ["T5EncoderModel"], "model_type": "t5", **text_config(policy, source)})
    for home, names, target in ((policy.prompts.source, TOKENIZER_FILES, text), (source.path, LICENCES, folder)):
        for name in names:
            if (home / name).is_file():
                shutil.copyfile(home / name, target / name)


def _language_state(policy: MusicGen, dtype: torch.dtype) -> dict[str, Tensor]:
    thirds: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(policy):
        theirs, third = audiocraft_name(name)
        if third:
            thirds.setdefault(theirs, {})[third] = tensor
        else:
            state[theirs] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    for theirs, parts in thirds.items():
        state[theirs] = torch.cat([parts[part] for part in "qkv"]).detach().to("cpu", dtype)
    return state


def _window(source: MusicGenFolder) -> Tensor:
    """What a melody is heard with; audiocraft's module has it among its tensors. The checkpoint's own or, as
    torchaudio's spectrogram has it, Hann's."""
    stored = source.language() if source.layout == AUDIOCRAFT else {}
    return stored[WINDOW].clone() if WINDOW in stored else torch.hann_window(2**RADIX)


def codec_state(source: MusicGenFolder) -> dict[str, Tensor]:
    """The codec's tensors under audiocraft's names, as they are stored: weight norm apart."""
    stored = source.codec()
    shapes, books = source.shapes, source.shapes.codebooks // source.shapes.audio_channels
    names = MusicGenCodec(source.config["audio_encoder"], shapes.audio_channels, books).stored_names()
    return {_codec_name(name, names): tensor for name, tensor in _each(stored)}


def _each(stored: StoredTensors) -> list[tuple[str, Tensor]]:
    return [(name, stored[name].clone()) for name in stored]


def _codec_name(name: str, folded: dict[str, str]) -> str:
    """folded: transformers' names of folded weights -> the encodec package's, which are audiocraft's too."""
    if name.startswith("quantizer.layers."):
        _, _, level, _, leaf = name.split(".")
        return f"quantizer.vq.layers.{level}._codebook.{leaf}"
    for ending, written in _ENDINGS.items():
        if name.endswith(ending):
            return folded[name.removesuffix(ending) + "weight"].removesuffix("weight") + written
    return folded[name]


def _write(path: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    package = {"best_state": state, "xp.cfg": yaml.safe_dump(config), "version": VERSION, "exported": True}
    partial = path.with_name(path.name + ".partial")
    torch.save(package, partial)
    partial.rename(path)
