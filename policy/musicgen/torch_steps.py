"""Steps of a MusicGen by torch's own modules: on a GPU, or in another type than float32.

The text is turned into cross-attention's keys and values once for each different prompt, and samples of one prompt
attend to one copy of them. Keys and values of the past lie in caches of fixed size. Of a guided row the null half has
no cross-attention, and the heads, which are linear, run once on null + g (conditioned - null). What stands before the
tokens of a MusicGen-Melody is worked out once for each prompt and copied into the caches of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from policy.log_probs import distribution_of_logits
from policy.musicgen.melody import MelodyTrunk
from policy.musicgen.model import MusicGen
from policy.musicgen.t5 import PAD
from policy.musicgen.trunk import Layer, attendable, join_heads, split_heads
from policy.port import SamplingSettings


class TorchSteps:
    """One call's caches: rows [B], and B more of the null condition where guidance asks for them."""

    def __init__(self, policy: MusicGen, text: Tensor, steps: int, settings: SamplingSettings) -> None:
        self.policy, self.guidance, self.rows = policy, settings.guidance_scale, len(text)
        trunk, shapes = policy.trunk, policy.shapes
        self.guided = self.guidance != 1.0
        rows = self.rows * (2 if self.guided else 1)
        self.cross, prefix = Cross.of(policy, text), None
        if isinstance(trunk, MelodyTrunk):
            prefix = Prefix(trunk, torch.cat([text, trunk.null_of(text)]) if self.guided else text)
        self.first = 0 if prefix is None else prefix.longest  # of the caches' places, that of the first step
        size = rows, shapes.heads, self.first + steps, shapes.width // shapes.heads
        weight = policy.heads.weight
        self.keys = [weight.new_empty(size) for _ in trunk.layers]
        self.values = [weight.new_empty(size) for _ in trunk.layers]
        self.begins, self.mask = torch.zeros(rows, dtype=torch.int64, device=weight.device), None
        self.positions = trunk.places(self.first + steps)
        if prefix is not None:
            prefix.copy_to(self.keys, self.values)
            self.begins, self.mask = prefix.begins, prefix.mask(self.first + steps)

    def next(self, shown: Tensor, step: int) -> Tensor:
        """The tokens that a step shows [B, K] -> logits of what the next one shows [B, K, V] float32."""
        trunk, policy = self.policy.trunk, self.policy
        x = trunk.embed(shown[..., None])[:, 0]
        if self.guided:
            x = torch.cat([x, x])
        x = x + self.positions[self.begins + step]
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
        keys, values, here = self.keys[place], self.values[place], self.first + step
        keys[:, :, here], values[:, :, here] = key[:, :, 0], value[:, :, 0]
        past = slice(0, here + 1)
        mask = None if self.mask is None else self.mask[..., past]
        attended = F.scaled_dot_product_attention(query, keys[:, :, past], values[:, :, past], attn_mask=mask)
        return layer.attention_out(join_heads(attended)[:, 0])


@dataclass(frozen=True)
class Cross:
    """Cross-attention's keys and values of U different texts, which B = U G rows attend to, or each row its own."""

    keys: list[tuple[Tensor, Tensor]]  # by layer [U, H, L, d]
    mask: Tensor  # [U, 1, 1, L]
    group: int  # rows of one text that stand together

    @classmethod
    def of(cls, policy: MusicGen, text: Tensor) -> Cross | None:
        if policy.shapes.melody or not bool((text != PAD).any()):
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


class Prefix:
    """What stands before the first step of rows with texts [B, L]: keys and values of each layer, worked out once for
    runs of rows of one text. All rows end at the same place, shorter ones begin later."""

    def __init__(self, trunk: MelodyTrunk, text: Tensor) -> None:
        self.group = group_size(text)
        different = text[:: self.group]
        self.begins, begins = trunk.begins(text), trunk.begins(different)
        x = trunk.prefix(different)
        self.longest = x.shape[1]
        x = x + trunk.places(self.longest)
        self._kept: list[tuple[Tensor, Tensor]] = []
        back = torch.arange(self.longest, device=x.device) - (self.longest - begins)[:, None]  # [U, P]
        places = back.clamp_min(0)[:, None, :, None]
        for layer in trunk.blocks:
            query, key, value = split_heads(layer.qkv(layer.norm_attention(x)), 3, layer.heads)
            self._kept.append((key.take_along_dim(places, 2), value.take_along_dim(places, 2)))
            x = x + layer.attention_out(join_heads(F.scaled_dot_product_attention(query, key, value, is_causal=True)))
            x = x + layer.feed_forward(x)

    def copy_to(self, keys: list[Tensor], values: list[Tensor]) -> None:
        """Into the caches of rows [B, H, S, d] by layer."""
        for place, (key, value) in enumerate(self._kept):
            keys[place][:, :, : self.longest] = key.repeat_interleave(self.group, 0)
            values[place][:, :, : self.longest] = value.repeat_interleave(self.group, 0)

    def mask(self, places: int) -> Tensor | None:
        """bool [B, 1, 1, places]: those that a row has; None where every row has all."""
        missing = self.longest - self.begins
        if not bool(missing.any()):
            return None
        return (torch.arange(places, device=missing.device) >= missing[:, None])[:, None, None]


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
