"""audiocraft's side of its layout, written from its own module names alone: reads a directory, computes logits.

Shares no code with the project: what it can load strictly, audiocraft's LMModel can.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, query: Tensor, memory: Tensor, causal: bool) -> Tensor:
        dim = query.shape[-1]
        weight_q, weight_k, weight_v = self.in_proj_weight.split(dim)
        parts = [x @ w.T for x, w in ((query, weight_q), (memory, weight_k), (memory, weight_v))]
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(2, 3) / (dim / self.heads) ** 0.5
        if causal:
            scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.cross_attention = Attention(dim, heads), Attention(dim, heads)
        self.linear1, self.linear2 = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.norm1, self.norm2, self.norm_cross = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed, causal=True)
        x = x + self.cross_attention(self.norm_cross(x), memory, causal=False)
        return x + self.linear2(nn.functional.gelu(self.linear1(self.norm2(x))))


class LanguageModel(nn.Module):
    """state_dict.bin of a directory. Raises where a tensor is missing, unknown or of another shape."""

    def __init__(self, directory: Path, text_width: int) -> None:
        super().__init__()
        package = torch.load(directory / "state_dict.bin", weights_only=True)
        self.config = OmegaConf.create(package["xp.cfg"])
        self.delays = list(self.config.codebooks_pattern.delay.delays)
        lm = self.config.transformer_lm
        assert self.config.lm_model == "transformer_lm" and lm.norm_first and lm.positional_embedding == "sin"
        assert not (lm.bias_ff or lm.bias_attn or lm.bias_proj) and list(self.config.fuser.cross) == ["description"]
        self.card = lm.card
        self.emb = nn.ModuleList(nn.Embedding(lm.card + 1, lm.dim) for _ in range(lm.n_q))
        hidden = int(lm.hidden_scale * lm.dim)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(Layer(lm.dim, lm.num_heads, hidden) for _ in range(lm.num_layers))
        self.out_norm = nn.LayerNorm(lm.dim)
        self.linears = nn.ModuleList(nn.Linear(lm.dim, lm.card, bias=False) for _ in range(lm.n_q))
        self.condition_provider = nn.Module()
        self.condition_provider.conditioners = nn.ModuleDict({"description": nn.Module()})
        self.condition_provider.conditioners["description"].output_proj = nn.Linear(text_width, lm.dim)
        self.load_state_dict(package["best_state"], strict=True)

    @torch.no_grad()
    def forward(self, codes: Tensor, states: Tensor) -> Tensor:
        """codes [1, K, T], T5's states of one prompt [1, L, W] -> logits [1, K, T, V]."""
        _, books, frames = codes.shape
        steps = frames + max(self.delays)
        shown = torch.full((1, books, steps), self.card)
        for k, delay in enumerate(self.delays):
            for t in range(frames):
                if t + 1 + delay < steps:
                    shown[:, k, t + 1 + delay] = codes[:, k, t]
        x = sum(table(shown[:, k]) for k, table in enumerate(self.emb))
        half = x.shape[-1] // 2
        phase = torch.arange(steps).view(-1, 1) / (10000 ** (torch.arange(half).view(1, -1) / (half - 1)))
        x = x + torch.cat([phase.cos(), phase.sin()], dim=-1)
        memory = self.condition_provider.conditioners["description"].output_proj(states)
        for layer in self.transformer.layers:
            x = layer(x, memory)
        x = self.out_norm(x)
        return torch.stack([head(x)[:, d : d + frames] for head, d in zip(self.linears, self.delays, strict=True)], 1)
