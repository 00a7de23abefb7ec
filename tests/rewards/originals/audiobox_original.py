"""Run by audiobox's environment: its own code with random weights -> a checkpoint, and what it says of fixed sounds.

`audiobox_original.py FOLDER [weights]`: with the word, the checkpoint alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from codec.torchaudio_guard import import_torchaudio

import_torchaudio()

from audiobox_aesthetics.infer import AesPredictor, Normalize  # noqa: E402
from audiobox_aesthetics.model.aes import AXES_NAME, AesMultiOutput  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def main(folder: Path, only_weights: bool) -> None:
    torch.manual_seed(0)
    target = {name: {"mean": 5.0 + place, "std": 1.0 + 0.1 * place} for place, name in enumerate(AXES_NAME)}
    config = {"proj_num_layer": 5, "proj_ln": True, "nth_layer": 13, "target_transform": target}
    model = AesMultiOutput(**config).eval()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if only_weights:
        return
    predictor = AesPredictor.__new__(AesPredictor)
    predictor.data_col, predictor.sample_rate, predictor.device = "path", 16_000, torch.device("cpu")
    predictor.model = model
    predictor.target_transform = {name: Normalize(**target[name]) for name in AXES_NAME}
    rng, expected = np.random.default_rng(0), {}
    for samples in (16_000 * 13, 16_000 * 4):
        sound = (0.2 * rng.normal(size=(2, samples))).astype(np.float32)
        rows = predictor.forward([{"path": torch.from_numpy(clip)[None], "sample_rate": 16_000} for clip in sound])
        expected[f"sound_{samples}"] = sound
        expected |= {f"{name}_{samples}": np.array([row[name] for row in rows]) for name in AXES_NAME}
    np.savez(folder / "expected.npz", **expected)


main(Path(sys.argv[1]), sys.argv[2:] == ["weights"])
