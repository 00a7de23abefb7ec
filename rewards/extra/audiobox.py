"""Audiobox Aesthetics (Tjandra et al., arXiv 2502.05139): how good does it sound, without a reference?

    score = one of CE (content enjoyment), CU (usefulness), PC (complexity), PQ (production quality), about 1 to 10

16 kHz mono, windows of 10 s one after the other, the last one padded with silence and masked; windows are averaged by
their length. The model answers in standard deviations of its training targets; the score is in the targets' units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError
from rewards.extra.catalogue import need
from rewards.extra.sound import mono_at, scores_of_finite
from rewards.extra.weights import content_version, device_of, fill, frozen, local_folder, read_tensors
from rewards.port import ClipBatch, ClipView

AXES = ("CE", "CU", "PC", "PQ")
RATE_HZ, WINDOW = 16_000, 160_000
_MODEL_KEYS = (
    "proj_num_layer",
    "proj_ln",
    "proj_act_fn",
    "proj_dropout",
    "nth_layer",
    "use_weighted_layer_sum",
    "precision",
    "normalize_embed",
    "output_dim",
)


class Audiobox:
    """rewards.port.RewardModel; `axis` is one of AXES, or several joined by "+", whose mean is the score."""

    needs: frozenset[ClipView] = frozenset({"pcm"})
    shift, scale = 0.0, 1.0
    name = "audiobox"

    def __init__(self, checkpoint: str, axis: str = "PQ", device: str = "auto", batch_size: int = 4) -> None:
        self.axes = tuple(axis.split("+"))
        unknown = [name for name in self.axes if name not in AXES]
        if unknown:
            raise UserError(f"axis: got {unknown[0]!r}, allowed {', '.join(AXES)}, or several joined by +")
        folder = local_folder(checkpoint, self.name)
        self.batch_size, self.device = int(batch_size), device_of(device)
        self.model = frozen(_load(folder), self.device)
        self.version = content_version(folder)

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32, mean of the chosen axes; NaN where a clip holds a sample that is not finite."""
        return scores_of_finite(clips, lambda c: np.mean([self.axis_scores(c)[name] for name in self.axes], axis=0))

    def axis_scores(self, clips: ClipBatch) -> dict[str, np.ndarray]:
        """Every axis -> [B] in the units of the training targets."""
        sound = torch.from_numpy(mono_at(clips, RATE_HZ))
        parts = list(sound.split(WINDOW, dim=1))
        weights = torch.tensor([part.shape[1] / WINDOW for part in parts])
        sums = dict.fromkeys(AXES, torch.zeros(len(sound)))
        for part, weight in zip(parts, weights, strict=True):
            for name, values in self._window(part).items():
                sums[name] = sums[name] + weight * values
        return {name: (total / weights.sum()).numpy() for name, total in sums.items()}

    @torch.inference_mode()
    def _window(self, part: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, n <= 160000] -> by axis [B]."""
        mask = torch.zeros(len(part), 1, WINDOW, dtype=torch.bool)
        mask[..., : part.shape[1]] = True
        padded = torch.nn.functional.pad(part, (0, WINDOW - part.shape[1]))[:, None]
        found: dict[str, list[torch.Tensor]] = {name: [] for name in AXES}
        for start in range(0, len(part), self.batch_size):
            rows = slice(start, start + self.batch_size)
            answer = self.model({"wav": padded[rows].to(self.device), "mask": mask[rows].to(self.device)})
            for name in AXES:
                target = self.model.target_transform[name]
                found[name].append((answer[name].float() * target["std"] + target["mean"]).cpu())
        return {name: torch.cat(values) for name, values in found.items()}


def _load(folder: Path) -> Any:
    """AesMultiOutput of a directory: config.json with model.safetensors, or checkpoint.pt. Raises UserError."""
    aes = need("audiobox_aesthetics.model.aes", "audiobox")
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = read_tensors(folder / "model.safetensors", "audiobox")
    else:
        config, tensors = _pickled(folder / "checkpoint.pt")
    target = config.get("target_transform")
    if not isinstance(target, dict) or any(name not in target for name in AXES):
        raise UserError(f"audiobox checkpoint: got {folder} without target_transform for {', '.join(AXES)}")
    known = {name: config[name] for name in _MODEL_KEYS if name in config}
    try:
        model = aes.AesMultiOutput(**known, target_transform=target)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"audiobox checkpoint: got {folder}, whose configuration is not understood ({error})") from None
    fill(model, tensors, folder, "audiobox")
    return model


def _pickled(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The published checkpoint.pt: state_dict with the prefix "model.", model_cfg and target_transform."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
        return {**content["model_cfg"], "target_transform": content["target_transform"]}, tensors
    except Exception as error:  # pickle, zip and torch each raise their own
        line = " ".join(str(error).split())[:160]
        raise UserError(f"audiobox checkpoint: got {path}, which cannot be read ({line})") from None
