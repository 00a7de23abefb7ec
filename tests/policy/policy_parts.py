"""Small policies whose weights are large enough that every part of the network matters."""

from __future__ import annotations

import torch

from policy.port import Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

WORDS = ("slow", "fast", "piano", "flute", "drums", "mid-tempo")
PROMPTS = ["slow piano", "fast flute with drums", "", "slow piano"]


def small_policy(sizes: tuple[int, ...] = (16, 16, 16), key_heads: int = 1, seed: int = 0) -> TinyMusicLM:
    """Random weights, three times as large as at the start of a training."""
    torch.manual_seed(seed)
    kinds = ("semantic", *("acoustic" for _ in sizes[1:]))
    config = TinyMusicLMConfig(
        streams=tuple(Stream(kind, size) for kind, size in zip(kinds, sizes, strict=True)),  # type: ignore[arg-type]
        max_frames=24,
        temporal_width=32,
        temporal_layers=2,
        temporal_heads=2,
        temporal_key_heads=key_heads,
        temporal_hidden=48,
        depth_width=24,
        depth_layers=2,
        depth_heads=2,
        depth_hidden=40,
    )
    policy = TinyMusicLM(config, TextTokenizer(WORDS, buckets=4, length=6)).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def random_codes(policy: TinyMusicLM, rows: int, frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randint(stream.size, (rows, frames), generator=generator) for stream in policy.streams]
    return torch.stack(streams, dim=1)
