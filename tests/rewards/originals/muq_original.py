"""Run by the environment of MuQ: its own code, small and with random weights -> a checkpoint, and its embeddings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from codec.torchaudio_guard import import_torchaudio
from rewards.extra.muq_mulan import _import_tokenizer_alone

import_torchaudio()
_import_tokenizer_alone()

from muq import MuQ, MuQMuLan  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import XLMRobertaConfig, XLMRobertaModel  # noqa: E402
from transformers.models.wav2vec2_conformer import Wav2Vec2ConformerConfig  # noqa: E402

PROMPTS = ["slow calm piano", "fast drums and a flute"]


def inner_models(folder: Path) -> None:
    """A MuQ and an XLM-RoBERTa of few layers, in the folders that the checkpoint's configuration names."""
    shapes = json.loads(
        Wav2Vec2ConformerConfig(num_attention_heads=2, intermediate_size=64, hidden_size=32).to_json_string(
            use_diff=False
        )
    )
    config = {
        "conv_dim": 16,
        "encoder_dim": 32,
        "encoder_depth": 2,
        "w2v2_config": {**shapes, "_attn_implementation": "eager"},
        "stat": {"melspec_2048_mean": 6.77, "melspec_2048_std": 18.4},
    }
    muq = MuQ(config)
    (folder / "MuQ-small").mkdir()
    save_file(
        {name: t.contiguous().clone() for name, t in muq.state_dict().items()}, folder / "MuQ-small/model.safetensors"
    )
    (folder / "MuQ-small/config.json").write_text(json.dumps(config))
    text = XLMRobertaConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    XLMRobertaModel(text).save_pretrained(folder / "xlm-roberta-small")
    for path in (folder / "tokenizer").iterdir():
        (folder / "xlm-roberta-small" / path.name).write_bytes(path.read_bytes())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    inner_models(folder)
    tower = {"dim": 40, "tf_depth": 1, "heads": 2, "dim_head": 8}
    config = {
        "mulan": {"sr": 24_000, "clip_secs": 10, "dim_latent": 24, "rank_contrast": True},
        "audio_model": {"name": str(folder / "MuQ-small"), "model_dim": 32, "use_layer_idx": -1},
        "text_model": {"name": str(folder / "xlm-roberta-small"), "model_dim": 48, "use_layer_idx": -1},
        "audio_transformer": tower,
        "text_transformer": tower,
    }
    model = MuQMuLan(config).eval()
    save_file({name: t.contiguous().clone() for name, t in model.state_dict().items()}, folder / "model.safetensors")
    hub = {**config, "audio_model": {**config["audio_model"], "name": "OpenMuQ/MuQ-large-msd-iter"}}
    hub["text_model"] = {**config["text_model"], "name": "xlm-roberta-base"}
    (folder / "config.json").write_text(json.dumps(hub))
    rng, expected = np.random.default_rng(0), {}
    with torch.no_grad():
        for seconds in (4, 13):
            sound = (0.2 * rng.normal(size=(2, 24_000 * seconds))).astype(np.float32)
            expected[f"sound_{seconds}"] = sound
            expected[f"audio_{seconds}"] = model(wavs=torch.from_numpy(sound)).numpy()
        expected["text"] = np.concatenate([model(texts=[prompt]).numpy() for prompt in PROMPTS])
    np.savez(folder / "expected.npz", **expected)


main(Path(sys.argv[1]))
