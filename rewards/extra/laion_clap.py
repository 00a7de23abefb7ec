"""CLAP as LAION publishes it (one .pt), read into transformers' model: the laion-clap package is not needed.

Unfused models on HTSAT-tiny or HTSAT-base, such as music_audioset_epoch_15_esc_90.14.pt (HTSAT-base); which of the two
is read from the weights. The directory also holds roberta-base's tokenizer files. Sound is rounded to 16 bit first, as
the package does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster.errors import UserError
from rewards.extra.clap import Clap, load_tokenizer
from rewards.extra.weights import fill, read_tensors

HEADS = (4, 8, 16, 32)
_RENAMES = (
    ("text_branch.", "text_model."),
    ("audio_branch.", "audio_model.audio_encoder."),
    (".attn.", ".attention.self."),
    (".self.proj.", ".output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".bn0.", ".batch_norm."),
    ("_projection.0.", "_projection.linear1."),
    ("_projection.2.", "_projection.linear2."),
)
# Counts and places, not learnt
_MADE_ANEW = ("position_ids", "token_type_ids", "relative_position_index")
# Parts of the training model that no embedding passes through
_UNUSED = (
    "audio_model.audio_encoder.spectrogram_extractor.",
    "audio_model.audio_encoder.logmel_extractor.",
    "audio_model.audio_encoder.tscam_conv.",
    "audio_model.audio_encoder.head.",
    "audio_model.audio_encoder.layers.",  # attention masks, which transformers makes itself
    "text_model.embeddings.position_ids",
    "text_transform.",
    "audio_transform.",
)


class LaionClap(Clap):
    """The same reward over LAION's own files."""

    model_name = "laion_clap"

    def _load(self, transformers: Any, folder: Path) -> tuple[Any, Any, Any]:
        files = sorted(folder.glob("*.pt"))
        if len(files) != 1:
            raise UserError(f"laion_clap checkpoint: got {folder} with {len(files)} *.pt files, allowed one")
        tensors = renamed(read_tensors(files[0], self.model_name))
        model = transformers.ClapModel(config_of(transformers, tensors, files[0]))
        own = {name: value for name, value in model.state_dict().items() if name.endswith(_MADE_ANEW)}
        fill(model, {**own, **tensors}, files[0], self.model_name, _UNUSED)
        features = transformers.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)
        return model, features, load_tokenizer(transformers, folder, self.model_name)

    def log_mel(self, samples: Tensor) -> Tensor:
        return super().log_mel((samples.clamp(-1.0, 1.0) * 32767.0).trunc() / 32767.0)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """LAION's names -> transformers' names; the joint query-key-value matrices of the audio tower are cut in three."""
    found = {}
    for name, tensor in tensors.items():
        key = name.removeprefix("module.")
        if key.startswith("text_branch.") and ".attention." in key:
            new = key.replace("text_branch.", "text_model.", 1)
        else:
            new = key
            for old, changed in _RENAMES:
                new = new.replace(old, changed)
        if key.startswith("audio_branch.") and ".qkv." in key:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[new.replace(".qkv.", f".{part}.")] = piece.contiguous()
        else:
            found[new] = tensor
    return found


def config_of(transformers: Any, tensors: dict[str, Tensor], place: Path) -> Any:
    """The shapes that the weights have. Raises UserError for a fused model or another tower."""
    audio = "audio_model.audio_encoder."
    if any(".mel_conv2d." in name or ".fusion_model." in name for name in tensors):
        raise UserError(f"laion_clap checkpoint: got the fused model {place}, allowed an unfused one")
    try:
        width = tensors[f"{audio}patch_embed.proj.weight"].shape[0]
        words, text_width = tensors["text_model.embeddings.word_embeddings.weight"].shape
        inner = tensors["text_model.encoder.layer.0.intermediate.dense.weight"].shape[0]
        positions = tensors["text_model.embeddings.position_embeddings.weight"].shape[0]
        shared = tensors["audio_projection.linear1.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"laion_clap checkpoint: got {place} without {error}, allowed HTSAT with RoBERTa") from None
    depths = [_count(tensors, rf"{re.escape(audio)}layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
    text_layers = _count(tensors, r"text_model\.encoder\.layer\.(\d+)\.")
    config = transformers.ClapConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": text_width,
            "intermediate_size": inner,
            "num_hidden_layers": text_layers,
            "num_attention_heads": max(1, text_width // 64),
            "max_position_embeddings": positions,
            "projection_dim": shared,
        },
        audio_config={
            "patch_embeds_hidden_size": width,
            "depths": depths,
            "num_attention_heads": list(HEADS),
            "hidden_size": width * 8,
            "projection_dim": shared,
            "enable_fusion": False,
        },
        projection_dim=shared,
    )
    config.torch_dtype = torch.float32
    return config


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
