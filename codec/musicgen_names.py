"""What audiocraft and transformers call the same tensors of MusicGen and of its codec.

The two differ in names, and in that audiocraft keeps queries, keys and values of an attention in one tensor.
"""

from __future__ import annotations

import re
from typing import Any

_DECODER = "decoder.model.decoder."
_LAYER_PARTS = {
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "self_attn_layer_norm",
    "norm_cross": "encoder_attn_layer_norm",
    "norm2": "final_layer_norm",
    "self_attn": "self_attn",
    "cross_attention": "encoder_attn",
}
_LAYER_PARTS_BACK = {ours: theirs for theirs, ours in _LAYER_PARTS.items()}
_CONDITIONERS = "condition_provider.conditioners."
_PLACES = {  # audiocraft's name -> transformers'
    r"emb\.(\d+)\.weight": _DECODER + r"embed_tokens.\1.weight",
    r"linears\.(\d+)\.weight": r"decoder.lm_heads.\1.weight",
    r"out_norm\.(\w+)": _DECODER + r"layer_norm.\1",
    r"condition_provider\.conditioners\.description\.output_proj\.(\w+)": r"enc_to_dec_proj.\1",
    r"condition_provider\.conditioners\.self_wav\.output_proj\.(\w+)": r"audio_enc_to_dec_proj.\1",
}
_PLACES_BACK = {
    r"decoder\.model\.decoder\.embed_tokens\.(\d+)\.weight": r"emb.\1.weight",
    r"decoder\.lm_heads\.(\d+)\.weight": r"linears.\1.weight",
    r"decoder\.model\.decoder\.layer_norm\.(\w+)": r"out_norm.\1",
    r"enc_to_dec_proj\.(\w+)": _CONDITIONERS + r"description.output_proj.\1",
    r"audio_enc_to_dec_proj\.(\w+)": _CONDITIONERS + r"self_wav.output_proj.\1",
}


def language_tensors(name: str, tensor: Any) -> dict[str, Any]:
    """One tensor of audiocraft's language model -> the same under transformers' names (its in_proj is three there)."""
    layer = re.fullmatch(r"transformer\.layers\.(\d+)\.(\w+)\.(.+)", name)
    if layer and layer[2] in _LAYER_PARTS:
        at = f"{_DECODER}layers.{layer[1]}.{_LAYER_PARTS[layer[2]]}."
        if layer[3] == "in_proj_weight":
            return {f"{at}{part}_proj.weight": third for part, third in zip("qkv", tensor.chunk(3), strict=True)}
        return {at + layer[3]: tensor}
    for pattern, replacement in _PLACES.items():
        if re.fullmatch(pattern, name):
            return {re.sub(pattern, replacement, name): tensor}
    return {name: tensor}


def audiocraft_name(name: str) -> tuple[str, str]:
    """A name of transformers' language model -> (audiocraft's name, which third of it: "q", "k", "v" or "")."""
    layer = re.fullmatch(re.escape(_DECODER) + r"layers\.(\d+)\.(\w+)\.(.+)", name)
    if layer:
        at = f"transformer.layers.{layer[1]}.{_LAYER_PARTS_BACK[layer[2]]}."
        third = re.fullmatch(r"([qkv])_proj\.weight", layer[3])
        return (at + "in_proj_weight", third[1]) if third else (at + layer[3], "")
    for pattern, replacement in _PLACES_BACK.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name), ""
    raise KeyError(name)


def codec_name(name: str) -> str:
    """A name of audiocraft's (and encodec's) codec -> transformers'."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.\1\.", ".conv.", name)
    return re.sub(r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook.", name)
