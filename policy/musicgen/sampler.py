"""Samples a MusicGen step by step, with everything that stays the same computed once.

The text is encoded, projected and turned into cross-attention's keys and values once for each different prompt, and
samples of one prompt attend to one copy of them. Keys and values of the past lie in caches of fixed size. Of a guided
row the null half has no cross-attention, and the heads, which are linear, run once on null + g (conditioned - null).

A cell is drawn by inverting its distribution function at the row's next uniform number, so that a row depends on its
seed alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy.log_probs import distribution_of_logits
from policy.musicgen.model import Layer, MusicGen, attendable, join_heads, split_heads
from policy.musicgen.t5 import PAD
from policy.port import SamplingSettings
from policy.sampler import uniform_noise

_ONEDNN: Any = torch.ops.mkldnn


class MusicGenSampler:
    """Sampling of one policy. Call `refresh` after its weights changed."""

    def __init__(self, policy: MusicGen) -> None:
        self.policy = policy
        self.refresh()

    def refresh(self) -> None:
        """Takes over the policy's present weights."""
        self.product = Products(self.policy)

    @torch.no_grad()
    def sample(
        self, text: Tensor, seeds: Sequence[int], frames: int, settings: SamplingSettings
    ) -> tuple[Tensor, Tensor]:
        """text [B, L], one seed a row -> codes [B, K, T] int64 and the log-probabilities [B, K, T] float32 that
        log_probs.log_distribution gives them.

        Raises ValueError where rows and seeds differ in number or `frames` is not in 1..max_frames.
        """
        shapes = self.policy.shapes
        if len(seeds) != len(text) or not 1 <= frames <= shapes.max_frames:
            got = f"{len(text)} rows, {len(seeds)} seeds, {frames} frames"
            raise ValueError(f"sample: got {got}, allowed one seed a row, 1 to {shapes.max_frames} frames")
        device = self.policy.heads.weight.device
        steps, books = frames + max(shapes.delays), shapes.codebooks
        noise = uniform_noise(seeds, frames, books).to(device)  # [T, K, B]
        codes = torch.full((len(text), books, frames), shapes.entries, dtype=torch.int64, device=device)
        log_probs = torch.zeros(codes.shape, device=device)
        state = _Steps(self.policy, self.product, text.to(device), steps, settings)
        sequence = self.policy.trunk.layout(frames)
        shown = torch.full((len(text), books), shapes.entries, dtype=torch.int64, device=device)
        for step in range(steps):
            logits = state.next(shown, step)  # [B, K, V]
            shown = torch.full_like(shown, shapes.entries)
            cells = [(k, t) for k, t in enumerate(sequence.frame[step + 1]) if t >= 0]
            levels, places = (list(part) for part in zip(*cells, strict=True))
            drawn, chosen = draw(logits[:, levels], noise[places, levels].T, settings)
            shown[:, levels] = drawn
            codes[:, levels, places], log_probs[:, levels, places] = drawn, chosen
        return codes.to(text.device), log_probs.to(text.device)


class Products:
    """The linear layers of a policy: on a CPU in float32 by oneDNN, from weights laid out once for it.

    For the few rows of a step, torch's own float32 product is some three times slower there, because it lays the weight
    out again for each call. Anywhere else they are torch's own.
    """

    def __init__(self, policy: MusicGen) -> None:
        weight = policy.heads.weight
        served = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        linear = [module for module in policy.modules() if isinstance(module, nn.Linear)]
        layers = [layer for layer in linear if getattr(layer, "bias", None) is None]
        with torch.no_grad():
            self.packed = {layer: _laid_out(layer.weight.detach()) for layer in layers} if served else {}

    def __call__(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]."""
        packed = self.packed.get(layer)
        return layer(x) if packed is None else _ONEDNN._linear_pointwise(x, packed, None, "none", [], "")


def _laid_out(weight: Tensor) -> Tensor:
    return _ONEDNN._reorder_linear_weight(weight)


class _Steps:
    """One call's caches: rows [B], and B more of the null condition where guidance asks for them."""

    def __init__(
        self, policy: MusicGen, product: Products, text: Tensor, steps: int, settings: SamplingSettings
    ) -> None:
        self.policy, self.product, self.guidance, self.rows = policy, product, settings.guidance_scale, len(text)
        trunk, shapes = policy.trunk, policy.shapes
        self.guided = self.guidance != 1.0
        rows = self.rows * (2 if self.guided else 1)
        self.cross = _Cross.of(policy, text)
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
                x[: self.rows] += self.cross.attend(layer, place, x[: self.rows], self.product)
            hidden = F.gelu(self.product(layer.hidden, layer.norm_hidden(x)))
            x = x + self.product(layer.hidden_out, hidden)
        x = trunk.norm(x)
        if self.guided:
            conditioned, null = x[: self.rows], x[self.rows :]
            x = null + self.guidance * (conditioned - null)
        return self.product(policy.heads, x).float().unflatten(-1, (policy.shapes.codebooks, -1))

    def _attend(self, layer: Layer, place: int, x: Tensor, step: int) -> Tensor:
        query, key, value = split_heads(self.product(layer.qkv, x)[:, None], 3, layer.heads)
        keys, values = self.keys[place], self.values[place]
        keys[:, :, step], values[:, :, step] = key[:, :, 0], value[:, :, 0]
        past = slice(0, step + 1)
        attended = F.scaled_dot_product_attention(query, keys[:, :, past], values[:, :, past])
        return self.product(layer.attention_out, join_heads(attended)[:, 0])


@dataclass(frozen=True)
class _Cross:
    """Cross-attention's keys and values of U different texts, which B = U G rows attend to, or each row its own."""

    keys: list[tuple[Tensor, Tensor]]  # by layer [U, H, L, d]
    mask: Tensor  # [U, 1, 1, L]
    group: int  # rows of one text that stand together

    @classmethod
    def of(cls, policy: MusicGen, text: Tensor) -> _Cross | None:
        if not bool((text != PAD).any()):
            return None
        group = group_size(text)
        different = text[::group]
        condition = policy.trunk.condition(different)
        assert condition is not None
        return cls([layer.cross_keys(condition) for layer in policy.trunk.blocks], attendable(different), group)

    def attend(self, layer: Layer, place: int, x: Tensor, product: Products) -> Tensor:
        """x [B, D] -> what cross-attention adds. The rows of a text are taken as so many places of one sequence."""
        key, value = self.keys[place]
        queries = product(layer.cross_query, layer.norm_cross(x)).unflatten(0, (-1, self.group))
        (query,) = split_heads(queries, 1, layer.heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        return product(layer.cross_out, join_heads(attended).flatten(0, 1))


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
