"""Prompts to what a MusicGen is conditioned on: T5's tokens, and T5's states of them.

A prompt is encoded by itself and at its own length, so that its states hang on nothing but the prompt: sampler and
learner, whatever their batches, get the same numbers. States are kept, for a run meets its prompts again and again.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster.errors import UserError
from codec.musicgen_folder import CONFIG, MusicGenFolder
from codec.tensor_files import read_safetensors, read_torch_shards
from policy.musicgen.t5 import PAD, FrozenT5

TOKENIZER = "tokenizer.json"
KEPT_PROMPTS = 2048
T5_NAME = "t5-base"  # the text encoder of every MusicGen; audiocraft fetches it by this name


class PromptEncoder:
    """tokenizer: of the tokenizers package; t5: what makes states of tokens. Copies of a policy share one."""

    def __init__(self, tokenizer: Any, t5: FrozenT5, source: Path) -> None:
        self.tokenizer, self.t5, self.source = tokenizer, t5, source
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptEncoder:
        return self

    @property
    def width(self) -> int:
        return self.t5.width

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """-> [B, L] int64, padded to the longest; an empty prompt is all pads, which is the null condition."""
        rows = [self.tokenizer.encode(prompt).ids if prompt.strip() else [] for prompt in prompts]
        length = max(1, *(len(row) for row in rows)) if rows else 1
        tokens = torch.full((len(rows), length), PAD, dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return tokens

    def states(self, tokens: Tensor) -> Tensor:
        """tokens [B, L] -> states [B, L, W] on the same device; zero at the pads."""
        rows = [tuple(row) for row in tokens.tolist()]
        found = torch.zeros(len(rows), tokens.shape[1], self.width)
        for place, row in enumerate(rows):
            length = sum(token != PAD for token in row)
            if length:
                found[place, :length] = self._states_of(row[:length])
        return found.to(tokens.device)

    def _states_of(self, row: tuple[int, ...]) -> Tensor:
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        states = self.t5(torch.tensor([row]))[0]
        self._kept[row] = states
        if len(self._kept) > KEPT_PROMPTS:
            self._kept.popitem(last=False)
        return states


def load_prompt_encoder(folder: MusicGenFolder) -> PromptEncoder:
    """The text encoder of a checkpoint, or the T5 that its owner has beside it. One for each process.

    Raises UserError where there is no T5 or no tokenizer, naming the places that were looked at.
    """
    return _cached_encoder(str(folder.path.resolve()), folder.path, folder.field)


@lru_cache(maxsize=4)
def _cached_encoder(resolved: str, path: Path, field: str) -> PromptEncoder:
    folder = MusicGenFolder(path, field)
    tensors = folder.text_encoder()
    if tensors is not None:
        config, home = folder.config["text_encoder"], folder.path
    else:
        home = find_t5(folder)
        config = json.loads((home / CONFIG).read_text(encoding="utf-8"))
        tensors = read_safetensors(home) if (home / "model.safetensors").is_file() else read_torch_shards(home)
    if config.get("model_type", "t5") != "t5":
        raise UserError(f"{field}: got {str(home)!r} with text encoder {config['model_type']!r}, allowed t5")
    return PromptEncoder(load_tokenizer(home, field), FrozenT5(config, tensors), home)


def find_t5(folder: MusicGenFolder) -> Path:
    """Where an audiocraft checkpoint's T5 lies: text_encoder/ or t5-base/ in it, or the hub's cache on this machine."""
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub")
    caches = [hub.expanduser() / f"models--{name}" / "snapshots" for name in (T5_NAME, f"google-t5--{T5_NAME}")]
    places = [folder.path / "text_encoder", folder.path / T5_NAME]
    places += [snapshot for cache in caches if cache.is_dir() for snapshot in sorted(cache.iterdir())]
    for place in places:
        if (place / CONFIG).is_file() and (place / TOKENIZER).is_file():
            return place
    raise UserError(
        f"{folder.field}: got {str(folder.path)!r} in audiocraft's layout, which brings no text encoder; put a copy of "
        f"{T5_NAME} (config.json, model.safetensors, tokenizer.json) into {folder.path / 'text_encoder'}"
    )


def load_tokenizer(home: Path, field: str) -> Any:
    """tokenizer.json of a directory. Raises UserError where it cannot be read."""
    from tokenizers import Tokenizer

    try:
        if (home / TOKENIZER).is_file():
            tokenizer = Tokenizer.from_file(str(home / TOKENIZER))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
    except Exception as error:  # the package's own, of many kinds
        raise UserError(f"{field}: got unreadable {home / TOKENIZER}: {' '.join(str(error).split())[:120]}") from None
    raise UserError(f"{field}: got {str(home)!r} without {TOKENIZER}, allowed T5's tokenizer beside the weights")
