"""Residual vector quantisation that does not collapse.

Three guards: latents arrive normalised, codebooks start from k-means and follow by exponential moving average, and an
entry that nothing chooses any more is moved onto a latent of the current batch.

Source: van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1 (EMA); Zeghidour et al. 2021 (arXiv 2107.03312),
section III-C (k-means start, dead entries, quantiser dropout).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMA_DECAY = 0.98
DEAD_BELOW = 0.04  # an entry chosen less often than this part of an even share counts as dead


class ResidualQuantizer(nn.Module):
    """K codebooks of V entries; level k quantises what levels 0..k-1 left over.

    Buffers: `codebooks` [K, V, D]; `shares` [K, V] and `sums` [K, V, D] are the moving averages of training:
    how often an entry is chosen, and the sum of what chose it, both per frame.
    """

    codebooks: Tensor
    shares: Tensor
    sums: Tensor

    def __init__(self, levels: int, entries: int, width: int) -> None:
        super().__init__()
        self.levels, self.entries = levels, entries
        self.register_buffer("codebooks", torch.zeros(levels, entries, width))
        self.register_buffer("shares", torch.full((levels, entries), 1 / entries), persistent=False)
        self.register_buffer("sums", torch.zeros(levels, entries, width), persistent=False)

    def encode(self, latent: Tensor) -> Tensor:
        """latent [B, T, D] -> codes [B, K, T]."""
        residual, codes = latent, []
        for level in range(self.levels):
            chosen = nearest(residual, self.codebooks[level])
            codes.append(chosen)
            residual = residual - self.codebooks[level][chosen]
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, k, T], k <= K leading levels -> latent [B, T, D]."""
        return sum((self.codebooks[level][codes[:, level]] for level in range(codes.shape[1])), torch.zeros(()))

    def forward(self, latent: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training pass. latent [B, T, D], levels [B] (how many each sequence keeps)
        -> (quantised with straight-through gradient [B, T, D], commitment loss [], codes [B, K, T])."""
        residual, total, codes, commitment = latent, torch.zeros_like(latent), [], latent.new_zeros(())
        for level in range(self.levels):
            chosen = nearest(residual.detach(), self.codebooks[level])
            if self.training:
                self._follow(level, residual.detach(), chosen)
            entry = self.codebooks[level][chosen]
            keep = (levels > level).to(latent.dtype)[:, None, None]
            commitment = commitment + ((residual - entry).square() * keep).mean()
            total = total + entry * keep
            residual = residual - entry
            codes.append(chosen)
        return latent + (total - latent).detach(), commitment, torch.stack(codes, 1)

    @torch.no_grad()
    def start_from(self, latents: Tensor, generator: torch.Generator, rounds: int = 12) -> None:
        """k-means start, level by level. latents [M, D], M >= V."""
        residual = latents
        for level in range(self.levels):
            centres = k_means(residual, self.entries, generator, rounds)
            chosen = nearest(residual, centres)
            self.codebooks[level] = centres
            self.shares[level] = torch.bincount(chosen, minlength=self.entries).float() / len(residual)
            self.sums[level] = centres * self.shares[level][:, None]
            residual = residual - centres[chosen]

    @torch.no_grad()
    def _follow(self, level: int, residual: Tensor, chosen: Tensor) -> None:
        flat, index = residual.reshape(-1, residual.shape[-1]).float(), chosen.reshape(-1)
        shares = torch.bincount(index, minlength=self.entries).float() / len(flat)
        sums = torch.zeros_like(self.sums[level]).index_add_(0, index, flat) / len(flat)
        self.shares[level].lerp_(shares, 1 - EMA_DECAY)
        self.sums[level].lerp_(sums, 1 - EMA_DECAY)
        dead = self.shares[level] < DEAD_BELOW / self.entries
        if bool(dead.any()):
            picks = torch.randint(len(flat), (int(dead.sum()),))
            self.shares[level][dead] = 1 / self.entries
            self.sums[level][dead] = flat[picks] / self.entries
        self.codebooks[level] = self.sums[level] / self.shares[level].clamp_min(1e-8)[:, None]


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """points [..., D], centres [V, D] -> index of the nearest centre [...]."""
    distance = centres.square().sum(-1) - 2 * points @ centres.T
    return distance.argmin(-1)


def k_means(points: Tensor, entries: int, generator: torch.Generator, rounds: int = 12) -> Tensor:
    """Lloyd's algorithm; empty clusters restart on random points. points [M, D] -> centres [entries, D]."""
    centres = points[torch.randperm(len(points), generator=generator)[:entries]].clone()
    for _ in range(rounds):
        chosen = nearest(points, centres)
        counts = torch.bincount(chosen, minlength=entries)
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        centres = sums / counts.clamp_min(1)[:, None]
        empty = counts == 0
        picks = torch.randint(len(points), (int(empty.sum()),), generator=generator)
        centres[empty] = points[picks]
    return centres


def perplexity(codes: Tensor, entries: int) -> list[float]:
    """How many entries each level effectively uses: exp of the entropy. codes [B, K, T] -> K numbers in [1, V]."""
    out = []
    for level in range(codes.shape[1]):
        share = torch.bincount(codes[:, level].reshape(-1), minlength=entries).double() / codes[:, level].numel()
        out.append(float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum())))
    return out
