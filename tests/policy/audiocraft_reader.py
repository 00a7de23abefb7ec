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
    def __init__(self, dim: int, heads: int, hidden: int, crossed: bool) -> None:
        super().__init__()
        self.self_attn, self.crossed = Attention(dim, heads), crossed
        self.linear1, self.linear2 = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if crossed:
            self.cross_attention, self.norm_cross = Attention(dim, heads), nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed, causal=True)
        if self.crossed:
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
        fuser = self.config.fuser
        self.ways = [list(way) for way in (fuser.prepend, fuser.cross)]
        assert not (lm.bias_ff or lm.bias_attn or lm.bias_proj)
        assert self.ways in ([[], ["description"]], [["self_wav", "description"], []])
        self.card = lm.card
        self.emb = nn.ModuleList(nn.Embedding(lm.card + 1, lm.dim) for _ in range(lm.n_q))
        hidden = int(lm.hidden_scale * lm.dim)
        self.transformer = nn.Module()
        crossed = bool(fuser.cross)
        self.transformer.layers = nn.ModuleList(
            Layer(lm.dim, lm.num_heads, hidden, crossed) for _ in range(lm.num_layers)
        )
        self.out_norm = nn.LayerNorm(lm.dim)
        self.linears = nn.ModuleList(nn.Linear(lm.dim, lm.card, bias=False) for _ in range(lm.n_q))
        self.condition_provider = nn.Module()
        self.condition_provider.conditioners = nn.ModuleDict({"description": nn.Module()})
        self.condition_provider.conditioners["description"].output_proj = nn.Linear(text_width, lm.dim)
        if fuser.prepend:
            self.condition_provider.conditioners["self_wav"] = self._chroma_conditioner(lm.dim)
        self.load_state_dict(package["best_state"], strict=True)

    def _chroma_conditioner(self, dim: int) -> nn.Module:
        """With a tensor for each that ChromaStemConditioner saves."""
        settings = self.config.conditioners.self_wav.chroma_stem
        assert self.config.conditioners.self_wav.model == "chroma_stem" and settings.argmax
        self.window = 2**settings.radix2_exp
        found = nn.Module()
        found.output_proj = nn.Linear(settings.n_chroma, dim)
        found.chroma = nn.Module()
        found.chroma.spec = nn.Module()
        found.chroma.spec.register_buffer("window", torch.zeros(self.window))
        return found

    def prefix(self, states: Tensor) -> Tensor:
        """The chroma of no sound, as long as that of the material that was learnt from, and the text."""
        conditioners = self.condition_provider.conditioners
        text = conditioners["description"].output_proj(states) * (states != 0).any(-1, keepdim=True)
        if not self.ways[0]:
            return text[:, :0]
        rate = self.config.conditioners.self_wav.chroma_stem.sample_rate
        silence = torch.zeros(max(int(rate * self.config.dataset.segment_duration), self.window))
        window = conditioners["self_wav"].chroma.spec.window
        heard = torch.stft(silence, self.window, self.window // 4, window=window, return_complex=True).abs()
        chroma = nn.functional.one_hot(heard[:12].argmax(0), conditioners["self_wav"].output_proj.in_features)
        return torch.cat([conditioners["self_wav"].output_proj(chroma.float())[None], text], dim=1)

    @torch.no_grad()
    def forward(self, codes: Tensor, states: Tensor) -> Tensor:
        """codes [1, K, T], T5's states of one prompt [1, L, W] (zeros: the null condition) -> logits [1, K, T, V]."""
        _, books, frames = codes.shape
        steps = frames + max(self.delays)
        shown = torch.full((1, books, steps), self.card)
        for k, delay in enumerate(self.delays):
            for t in range(frames):
                if t + 1 + delay < steps:
                    shown[:, k, t + 1 + delay] = codes[:, k, t]
        x = sum(table(shown[:, k]) for k, table in enumerate(self.emb))
        x = torch.cat([self.prefix(states), x], dim=1)
        half = x.shape[-1] // 2
        phase = torch.arange(x.shape[1]).view(-1, 1) / (10000 ** (torch.arange(half).view(1, -1) / (half - 1)))
        x = x + torch.cat([phase.cos(), phase.sin()], dim=-1)
        memory = self.condition_provider.conditioners["description"].output_proj(states)
        for layer in self.transformer.layers:
            x = layer(x, memory)
        x = self.out_norm(x)[:, -steps:]
        return torch.stack([head(x)[:, d : d + frames] for head, d in zip(self.linears, self.delays, strict=True)], 1)
