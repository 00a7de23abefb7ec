"""A MusicGen's weights: from a checkpoint into the module, tensor by tensor, and back.

The module keeps queries, keys and values of an attention in one matrix; `stored_tensors` names them as transformers'
layout does, `load_musicgen` takes either layout, because codec.musicgen_folder offers both under those names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cluster.errors import UserError
from codec.musicgen_folder import MusicGenFolder
from codec.tensor_files import StoredTensors
from policy.lora import merged_state
from policy.musicgen.model import MusicGen
from policy.musicgen.prompts import load_prompt_encoder

KIND = "musicgen"
_IGNORED = re.compile(
    r".*\.embed_positions\.weights"  # computed; written by transformers before 4.40
    r"|condition_provider\.conditioners\.self_wav\.chroma\..*"  # what hears a melody, which is never asked for
)
_DECODER = "decoder.model.decoder."
_PARTS = {  # transformers' name within a layer -> (this module's, which part of how many rows)
    "self_attn.q_proj.weight": ("qkv.weight", 0, 3),
    "self_attn.k_proj.weight": ("qkv.weight", 1, 3),
    "self_attn.v_proj.weight": ("qkv.weight", 2, 3),
    "self_attn.out_proj.weight": ("attention_out.weight", 0, 1),
    "self_attn_layer_norm.weight": ("norm_attention.weight", 0, 1),
    "self_attn_layer_norm.bias": ("norm_attention.bias", 0, 1),
    "encoder_attn.q_proj.weight": ("cross_query.weight", 0, 1),
    "encoder_attn.k_proj.weight": ("cross_key_value.weight", 0, 2),
    "encoder_attn.v_proj.weight": ("cross_key_value.weight", 1, 2),
    "encoder_attn.out_proj.weight": ("cross_out.weight", 0, 1),
    "encoder_attn_layer_norm.weight": ("norm_cross.weight", 0, 1),
    "encoder_attn_layer_norm.bias": ("norm_cross.bias", 0, 1),
    "fc1.weight": ("hidden.weight", 0, 1),
    "fc2.weight": ("hidden_out.weight", 0, 1),
    "final_layer_norm.weight": ("norm_hidden.weight", 0, 1),
    "final_layer_norm.bias": ("norm_hidden.bias", 0, 1),
}


def load_musicgen(directory: str | Path, field: str = "policy.checkpoint") -> MusicGen:
    """The policy of a MusicGen directory in float32, in evaluation mode.

    The stored tensors are mapped and copied one by one, so that loading takes the module's own size of memory.
    Raises UserError, in one line, for anything but a whole MusicGen with finite weights.
    """
    folder = MusicGenFolder(directory, field)
    stored = folder.language()
    shapes = replace(folder.shapes, project_text="enc_to_dec_proj.weight" in stored)
    prompts = load_prompt_encoder(folder)
    if prompts.width != shapes.text_width:
        raise UserError(
            f"{field}: got {str(directory)!r} with a text encoder of width {prompts.width}, allowed {shapes.text_width}"
        )
    with torch.device("meta"):
        policy = MusicGen(shapes, prompts, folder)
    policy.to_empty(device="cpu")
    policy.trunk.set_positions()
    fill(policy, stored, f"{field}: got {str(directory)!r}")
    return policy.eval()


@torch.no_grad()
def fill(policy: MusicGen, stored: StoredTensors, whose: str) -> None:
    """Copies stored tensors into the module. Raises UserError, beginning with `whose`, where they do not fit."""
    own = dict(stored_tensors(policy))
    names = [name for name in stored if not _IGNORED.fullmatch(name)]
    for name in sorted(own.keys() ^ set(names)):
        there = "lacks" if name in own else "has an unknown"
        raise UserError(f"{whose}, which {there} tensor {name!r}; allowed a whole MusicGen")
    for name in names:
        if stored.shapes[name] != tuple(own[name].shape):
            shapes = f"got {list(stored.shapes[name])}, allowed {list(own[name].shape)}"
            raise UserError(f"{whose}, whose {name} has another shape: {shapes}")
        own[name].copy_(stored[name])
        if not own[name].isfinite().all():
            raise UserError(f"{whose}, whose {name} has values that are not finite")


def stored_tensors(policy: MusicGen) -> Iterator[tuple[str, Tensor]]:
    """Every weight as transformers' layout names and cuts it: views of the module's own, merged where it is adapted."""
    for name, parameter in merged_state(policy):
        yield from cut(name, parameter, policy.shapes.codebooks)


def cut(name: str, tensor: Tensor, codebooks: int) -> Iterator[tuple[str, Tensor]]:
    """One tensor of the module, under its name here -> its parts under transformers' names."""
    layer = re.fullmatch(r"trunk\.layers\.(\d+)\.(.+)", name)
    if layer:
        for theirs, (ours, part, parts) in _PARTS.items():
            if ours == layer[2]:
                yield f"{_DECODER}layers.{layer[1]}.{theirs}", tensor.chunk(parts)[part]
    elif name == "heads.weight":
        for book, head in enumerate(tensor.chunk(codebooks)):
            yield f"decoder.lm_heads.{book}.weight", head
    elif name.startswith("trunk.embed_codes."):
        yield f"{_DECODER}embed_tokens.{name.split('.')[2]}.weight", tensor
    elif name.startswith("trunk.project_text."):
        yield f"enc_to_dec_proj.{name.rpartition('.')[2]}", tensor
    elif name.startswith("trunk.embed_chroma."):
        yield f"audio_enc_to_dec_proj.{name.rpartition('.')[2]}", tensor
    elif name.startswith("trunk.norm."):
        yield f"{_DECODER}layer_norm.{name.rpartition('.')[2]}", tensor
    else:
        raise KeyError(name)
