"""Small models of the field with random weights: true architectures, few layers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.torchaudio_guard import import_torchaudio
from rewards.port import ClipBatch

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS = Path(__file__).parent / "originals"
SENTENCE = "slow calm piano fast drums and a flute music"
SMALL_AUDIO = {
    "patch_embeds_hidden_size": 16,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "hidden_size": 128,
    "projection_dim": 24,
}


def write_tokenizer(folder: Path) -> None:
    """roberta-base's kind of tokenizer over a few words."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    words = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words.train_from_iterator([SENTENCE] * 20, vocab_size=300, special_tokens=marks, show_progress=False)
    words.save_model(str(folder))
    RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def write_clap(folder: Path, fused: bool = False) -> Path:
    """A CLAP directory as transformers saves it."""
    import_torchaudio()
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(0)
    text = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ClapConfig(
        text_config={**text, "intermediate_size": 32, "projection_dim": 24, "max_position_embeddings": 90},
        audio_config={**SMALL_AUDIO, "enable_fusion": fused, "fusion_type": "aff_2d" if fused else None},
        projection_dim=24,
    )
    model = ClapModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.fill_(-20.0)
        norm.running_var.fill_(100.0)
    model.save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc", frequency_min=50).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def environment_of(model: str) -> str:
    """Where MUSICRL_ENVIRONMENTS (or build/environments) has the model's environment; skips the test without it."""
    place = Path(os.environ.get("MUSICRL_ENVIRONMENTS", ROOT / "build" / "environments")) / model
    if not (place / "bin" / "python").exists():
        pytest.skip(f"no environment {place}: python -m rewards.environment {model} {place}")
    return str(place)


def original(model: str, environment: str, folder: Path, *words: str) -> dict[str, np.ndarray]:
    """Runs the package's own code in its environment -> what it answered; its checkpoint is in `folder`."""
    run_original(model, environment, folder, *words)
    return dict(np.load(folder / "expected.npz"))


def run_original(model: str, environment: str, folder: Path, *words: str) -> None:
    """`words`: what its script takes beside the folder."""
    command = [f"{environment}/bin/python", str(ORIGINALS / f"{model}_original.py"), str(folder), *words]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def sounds(seconds: float = 3.0, rate_hz: int = 48_000, count: int = 3, seed: int = 0) -> ClipBatch:
    """Tones under noise, stereo, each its own."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = np.stack([np.sin(2 * np.pi * 220 * (row + 1) * at) * (1 + np.sin(2 * np.pi * at)) for row in range(count)])
    pcm = 0.2 * tones[:, None] + 0.02 * rng.normal(size=(count, 2, len(at)))
    prompts = ("slow calm piano", "fast drums", "a flute")[:count]
    return ClipBatch(prompts, rate_hz, pcm=pcm.astype(np.float32))


class Steady:
    """A reward for the isolated process: mean level; asleep where the sample rate is 1 Hz, failing at 2 Hz."""

    version = "steady-1"
    needs = frozenset({"pcm"})
    shift, scale = 0.5, 2.0

    def __init__(self, checkpoint: str, offset: float = 0.0) -> None:
        if checkpoint == "broken":
            raise RuntimeError("no such\nmodel")
        self.offset = offset

    def score(self, clips: ClipBatch) -> np.ndarray:
        import time

        if clips.sample_rate_hz == 1:
            time.sleep(60)
        if clips.sample_rate_hz == 2:
            raise ValueError("two hertz")
        return np.abs(clips.pcm).mean((1, 2)) + self.offset
