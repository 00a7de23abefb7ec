"""Steps of a MusicGen by torch's own modules: on a GPU, or in another type than float32.

The text is turned into cross-attention's keys and values once for each different prompt, and samples of one prompt
attend to one copy of them. Keys and values of the past lie in caches of fixed size. Of a guided row the null half has
no cross-attention, and the heads, which are linear, run once on null + g (conditioned - null).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from policy.log_probs import distribution_of_logits
from policy.musicgen.model import Layer, MusicGen, attendable, join_heads, split_heads
from policy.musicgen.t5 import PAD
from policy.port import SamplingSettings


class TorchSteps:
    """One call's caches: rows [B], and B more of the null condition where guidance asks for them."""

    def __init__(self, policy: MusicGen, text: Tensor, steps: int, settings: SamplingSettings) -> None:
        self.policy, self.guidance, self.rows = policy, settings.guidance_scale, len(text)
        trunk, shapes = policy.trunk, policy.shapes
        self.guided = self.guidance != 1.0
        rows = self.rows * (2 if self.guided else 1)
        self.cross = Cross.of(policy, text)
        size = rows, shapes.heads, steps, shapes.width // shapes.heads
        weight = policy.heads.weight
        self.keys = [weight.new_empty(size) for _ in trunk.layers]
        self.values = [weight.new_empty(size) for _ in trunk.layers]

    def next(self, shown: Tensor, step: int) -> Tensor:
        """The tokens that a step shows [B, K] -> logits of what the next one shows [B, K, V] float32."""
        trunk, policy = self.policy.trunk, self.policy
        x = trunk.embed(shown[..., None])[:, 0] + trunk.positions[step].to(policy.heads.weight.dtype)
        if self.guided:
            x = torch.cat([x, x])
        for place, layer in enumerate(trunk.blocks):
            x = x + self._attend(layer, place, layer.norm_attention(x), step)
            if self.cross is not None:
                x[: self.rows] += self.cross.attend(layer, place, x[: self.rows])
            hidden = F.gelu(layer.hidden(layer.norm_hidden(x)))
            x = x + layer.hidden_out(hidden)
        x = trunk.norm(x)
        if self.guided:
            conditioned, null = x[: self.rows], x[self.rows :]
            x = null + self.guidance * (conditioned - null)
        return policy.heads(x).float().unflatten(-1, (policy.shapes.codebooks, -1))

    def _attend(self, layer: Layer, place: int, x: Tensor, step: int) -> Tensor:
        query, key, value = split_heads(layer.qkv(x)[:, None], 3, layer.heads)
        keys, values = self.keys[place], self.values[place]
        keys[:, :, step], values[:, :, step] = key[:, :, 0], value[:, :, 0]
        past = slice(0, step + 1)
        attended = F.scaled_dot_product_attention(query, keys[:, :, past], values[:, :, past])
        return layer.attention_out(join_heads(attended)[:, 0])


@dataclass(frozen=True)
class Cross:
    """Cross-attention's keys and values of U different texts, which B = U G rows attend to, or each row its own."""

    keys: list[tuple[Tensor, Tensor]]  # by layer [U, H, L, d]
    mask: Tensor  # [U, 1, 1, L]
    group: int  # rows of one text that stand together

    @classmethod
    def of(cls, policy: MusicGen, text: Tensor) -> Cross | None:
        if not bool((text != PAD).any()):
            return None
        group = group_size(text)
        different = text[::group]
        condition = policy.trunk.condition(different)
        assert condition is not None
        return cls([layer.cross_keys(condition) for layer in policy.trunk.blocks], attendable(different), group)

    def attend(self, layer: Layer, place: int, x: Tensor) -> Tensor:
        """x [B, D] -> what cross-attention adds. The rows of a text are taken as so many places of one sequence."""
        key, value = self.keys[place]
        queries = layer.cross_query(layer.norm_cross(x)).unflatten(0, (-1, self.group))
        (query,) = split_heads(queries, 1, layer.heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        return layer.cross_out(join_heads(attended).flatten(0, 1))


def group_size(text: Tensor) -> int:
    """The largest G such that the rows [B, L] are runs of G equal ones."""
    changes = (text[1:] != text[:-1]).any(-1).nonzero().flatten() + 1  # rows at which another text begins
    group = len(text)
    for row in changes.tolist():
        while row % group or len(text) % group:
            group -= 1
    return group


def draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """logits [B, K, V], already guided, and uniform numbers [B, K] -> tokens and their log-probabilities [B, K]."""
    log_dist = distribution_of_logits(logits, None, settings)
    upper = log_dist.exp().cumsum(-1)  # of each entry's slice of [0, 1), up to rounding
    point = (uniform * upper[..., -1]).unsqueeze(-1).contiguous()
    tokens = torch.searchsorted(upper, point, right=True).clamp_max(logits.shape[-1] - 1)
    return tokens.squeeze(-1), log_dist.gather(-1, tokens).squeeze(-1)
