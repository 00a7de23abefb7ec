"""MuQ-MuLan (Zhu et al., arXiv 2501.01108): does the clip sound like its prompt, in English or Chinese?

    score = cosine of clip and prompt, in [-1, 1]; 24 kHz mono, the mean over clips of 10 s, fp32

The last clip of 10 s is filled up from the beginning, as the package does. Its configuration names the two inner
models by their names on a hub; here they are folders inside the checkpoint: one with "muq" in its name, one with
"xlm-roberta".
"""

from __future__ import annotations

import copy
import importlib.machinery
import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError
from rewards.extra.catalogue import need
from rewards.extra.sound import mono_at, scores_of_finite
from rewards.extra.weights import (
    content_version,
    device_of,
    fill,
    frozen,
    local_folder,
    read_tensors,
    refusing_downloads,
    weight_files,
)
from rewards.port import ClipBatch, ClipView

INNER = {"audio_model": "muq", "text_model": "xlm-roberta"}  # part of the configuration -> in the folder's name


class MuqMulan:
    """rewards.port.RewardModel and evaluation's Embedder."""

    needs: frozenset[ClipView] = frozenset({"pcm"})
    shift, scale = 0.0, 1.0
    name = "muq_mulan"

    def __init__(self, checkpoint: str, device: str = "auto") -> None:
        folder = local_folder(checkpoint, self.name, "config.json")
        self.device = device_of(device)
        with refusing_downloads():
            self.model = frozen(_load(folder), self.device)
        self.version = content_version(folder)

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32; NaN where a clip holds a sample that is not finite."""
        return scores_of_finite(clips, lambda c: (self._audio(c) * self.embed_prompts(c.prompts)).sum(1))

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32, mean over clips of 10 s of unit vectors."""
        return scores_of_finite(clips, self._audio)

    @torch.inference_mode()
    def embed_prompts(self, prompts: tuple[str, ...] | list[str]) -> np.ndarray:
        """-> [B, D] float32, unit length. One at a time: the text tower averages over padding, too."""
        return np.concatenate([self.model(texts=[prompt]).float().cpu().numpy() for prompt in prompts])

    @torch.inference_mode()
    def _audio(self, clips: ClipBatch) -> np.ndarray:
        sound = torch.from_numpy(mono_at(clips, int(self.model.sr))).to(self.device)
        length = int(self.model.sr * self.model.clip_secs)
        parts = list(sound.split(length, dim=1))
        if parts[-1].shape[1] < length:  # as the package does: a clip under 5 s comes twice, not more often
            parts[-1] = torch.cat([parts[-1], sound[:, : length - parts[-1].shape[1]]], dim=1)
        parts = [self.model.mulan_module.get_audio_latents(part) for part in parts]
        return torch.stack(parts).mean(0).float().cpu().numpy()


def _load(folder: Path) -> Any:
    _import_tokenizer_alone()
    before = random.getstate()  # the package seeds Python's own generator while it builds the model
    try:
        muq = need("muq", "muq_mulan")
        try:
            config = _localised(json.loads((folder / "config.json").read_text(encoding="utf-8")), folder)
            model = muq.MuQMuLan(config)
        except UserError:
            raise
        except Exception as error:  # the package and transformers beneath it raise all kinds
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"muq_mulan checkpoint: got {folder}, which cannot be built ({line})") from None
    finally:
        random.setstate(before)
    file = weight_files(folder)[0]
    fill(model, read_tensors(file, "muq_mulan"), file, "muq_mulan")
    return model


def _localised(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with the inner models as folders. Raises UserError where one is missing."""
    local = copy.deepcopy(config.get("config", config))
    for part, word in INNER.items():
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and word in path.name.lower())
        if not inside or part not in local:
            raise UserError(
                f"muq_mulan checkpoint: got {folder} without a folder named *{word}*, allowed its inner model there "
                f"({local.get(part, {}).get('name', part)})"
            )
        local[part]["name"] = str(inside[0])
    return local


def _import_tokenizer_alone() -> None:
    """Makes `x_clip.tokenizer` importable without the rest of x_clip, which would ask for torchvision.

    Of x_clip the package reads that one module.
    """
    if "x_clip" in sys.modules:
        return
    spec = importlib.util.find_spec("x_clip")
    if spec is None or spec.submodule_search_locations is None:
        return
    package = ModuleType("x_clip")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = importlib.machinery.ModuleSpec("x_clip", None, is_package=True)
    sys.modules["x_clip"] = package
