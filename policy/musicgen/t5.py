"""T5's encoder, frozen: token ids to states, for the conditioning of a MusicGen.

Its tensors may stay mapped from the checkpoint's file, so that all processes of a machine share them; it is no module
and enters neither a policy's weights nor its copies.

Source: Raffel et al., arXiv 1910.10683, section 2.1 (relative position biases shared by all layers, root-mean-square
norms, no biases, no scaling of the attention's logits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cluster.errors import UserError

PAD = 0
_ACTIVATIONS = {"relu": F.relu, "gelu_new": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu}


class FrozenT5:
    """tokens [1, L] -> states [1, L, W]. config, tensors: text_encoder of transformers' layout.

    Raises UserError where a tensor is missing or the activation is unknown.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.layers, self.heads = int(config["num_layers"]), int(config["num_heads"])
        self.buckets = int(config.get("relative_attention_num_buckets", 32))
        self.distance = int(config.get("relative_attention_max_distance", 128))
        self.epsilon = float(config.get("layer_norm_epsilon", 1e-6))
        kind = str(config.get("feed_forward_proj", "relu"))
        self.gated = kind.startswith("gated-")
        activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
        if activation not in _ACTIVATIONS:
            raise UserError(f"text encoder: got feed_forward_proj {kind!r}, allowed relu or gated-gelu")
        self.activation: Any = _ACTIVATIONS[activation]
        self.tensors = {name: _float(tensors, name) for name in self._names()}
        self.embeddings = _float(
            tensors, "shared.weight" if "shared.weight" in tensors else "encoder.embed_tokens.weight"
        )
        self.width = self.embeddings.shape[1]

    @torch.inference_mode(False)  # kept by the caller: they must serve training too, whoever asks first
    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        x = self.embeddings[tokens]
        bias = self._bias(tokens.shape[1])
        for layer in range(self.layers):
            attention, forward = f"encoder.block.{layer}.layer.0.", f"encoder.block.{layer}.layer.1."
            x = x + self._attend(self._norm(x, attention), attention + "SelfAttention.", bias)
            x = x + self._feed(self._norm(x, forward), forward + "DenseReluDense.")
        return self._scaled(x, self.tensors["encoder.final_layer_norm.weight"])

    def _attend(self, x: Tensor, at: str, bias: Tensor) -> Tensor:
        query, key, value = (self._heads(F.linear(x, self.tensors[f"{at}{part}.weight"])) for part in "qkv")
        weights = (query @ key.transpose(-1, -2) + bias).softmax(-1)
        return F.linear((weights @ value).transpose(1, 2).flatten(2), self.tensors[f"{at}o.weight"])

    def _feed(self, x: Tensor, at: str) -> Tensor:
        if self.gated:
            hidden = self.activation(F.linear(x, self.tensors[f"{at}wi_0.weight"]))
            hidden = hidden * F.linear(x, self.tensors[f"{at}wi_1.weight"])
        else:
            hidden = self.activation(F.linear(x, self.tensors[f"{at}wi.weight"]))
        return F.linear(hidden, self.tensors[f"{at}wo.weight"])

    def _norm(self, x: Tensor, at: str) -> Tensor:
        return self._scaled(x, self.tensors[f"{at}layer_norm.weight"])

    def _scaled(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, d]

    def _bias(self, length: int) -> Tensor:
        """[1, H, L, L], by the bucket of each distance: exact when short, logarithmic when long."""
        places = torch.arange(length)
        apart = places[None, :] - places[:, None]  # key minus query
        half = self.buckets // 2
        exact = half // 2
        far = apart.abs().clamp_min(1).float() / exact
        logarithmic = exact + (far.log() / math.log(self.distance / exact) * (half - exact)).long()
        bucket = torch.where(apart.abs() < exact, apart.abs(), logarithmic.clamp_max(half - 1)) + (apart > 0) * half
        table = self.tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return table[bucket].permute(2, 0, 1)[None]

    def _names(self) -> list[str]:
        names = ["encoder.final_layer_norm.weight"]
        names.append("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        feed = ("wi_0", "wi_1", "wo") if self.gated else ("wi", "wo")
        for layer in range(self.layers):
            at = f"encoder.block.{layer}.layer."
            names += [f"{at}0.SelfAttention.{part}.weight" for part in "qkvo"]
            names += [f"{at}1.DenseReluDense.{part}.weight" for part in feed]
            names += [f"{at}{place}.layer_norm.weight" for place in (0, 1)]
        return names


def _float(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UserError(f"text encoder: got a checkpoint without {name}, allowed T5's encoder")
    return tensors[name].float()  # the same mapped memory where it is float32 already
