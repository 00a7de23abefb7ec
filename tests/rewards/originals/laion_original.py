"""Run where the laion-clap package is: its own code with random weights -> a checkpoint, and its embeddings.

Vision parts of the package ask for torchvision, which no sound passes through: a stand-in answers for it. The text
tower is RoBERTa with fewer layers and words, as no weights of it may be fetched.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np
import torch

from codec.torchaudio_guard import import_torchaudio

import_torchaudio()

import transformers  # noqa: E402

PROMPTS = ["slow calm piano", "fast drums"]
TEXT = {"vocab_size": 300, "hidden_size": 768, "num_hidden_layers": 2, "intermediate_size": 256, "type_vocab_size": 1}


class Nothing:
    def __init__(self, *_: object, **__: object) -> None:
        pass


def stand_in(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__getattr__ = lambda _: Nothing
    sys.modules[name] = module
    return module


def without_downloads(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for kind in (transformers.RobertaTokenizer, transformers.BertTokenizer, transformers.BartTokenizer):
        kind.from_pretrained = classmethod(lambda cls, *_, **__: tokenizer)
    shapes = transformers.RobertaConfig(**TEXT, num_attention_heads=12, max_position_embeddings=514)
    transformers.RobertaModel.from_pretrained = classmethod(lambda cls, *_, **__: cls(shapes))
    assert transformers.BertModel and transformers.BartModel  # imported before torchvision seems to be there
    vision = stand_in("torchvision")
    for name in ("transforms", "datasets", "ops"):
        setattr(vision, name, stand_in(f"torchvision.{name}"))
    stand_in("torchvision.ops.misc").FrozenBatchNorm2d = torch.nn.BatchNorm2d


def main(folder: Path, tower: str) -> None:
    without_downloads(folder)
    import laion_clap

    torch.manual_seed(0)
    clap = laion_clap.CLAP_Module(enable_fusion=False, amodel=tower, device="cpu").eval()
    with torch.no_grad():
        for parameter in clap.model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in clap.model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer) - 20)
            if name.endswith("running_var"):
                buffer.copy_(50 + 10 * torch.rand_like(buffer))
    weights = {f"module.{name}": tensor for name, tensor in clap.model.state_dict().items()}
    torch.save({"epoch": 3, "name": "random", "state_dict": weights, "loss": np.float64(1.5)}, folder / "random.pt")
    rng, expected = np.random.default_rng(0), {"text": clap.get_text_embedding(PROMPTS)}
    for seconds in (4, 10):
        sound = (0.2 * rng.normal(size=(2, 48_000 * seconds))).astype(np.float32)
        expected[f"sound_{seconds}"] = sound
        expected[f"audio_{seconds}"] = clap.get_audio_embedding_from_data(sound)
    np.savez(folder / "expected.npz", **expected)


main(Path(sys.argv[1]), sys.argv[2])
