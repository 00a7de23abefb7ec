"""A small real policy and codec with random weights, and two scorers that measure something simple."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from codec.checkpoint import save_codec
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from policy.checkpoint import save_policy
from policy.port import Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig
from rewards.port import ClipBatch, ClipView

PROMPTS = tuple(
    f"{tempo} {lead} number {i}" for i, (tempo, lead) in enumerate([("slow", "piano"), ("fast", "flute")] * 6)
)
SHAPES = TinyMusicLMConfig(
    streams=(Stream("semantic", 8), Stream("acoustic", 8), Stream("acoustic", 8)),
    max_frames=32,
    temporal_width=16,
    temporal_layers=1,
    temporal_heads=2,
    temporal_hidden=16,
    depth_width=16,
    depth_layers=1,
    depth_heads=2,
    depth_hidden=16,
)


def tiny_policy(seed: int = 0) -> TinyMusicLM:
    torch.manual_seed(seed)
    policy = TinyMusicLM(SHAPES, TextTokenizer(words=("slow", "fast", "piano", "flute"), buckets=4, length=6))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # far from uniform
    return policy.eval()


def tiny_codec(seed: int = 0) -> MagnitudeCodec:
    torch.manual_seed(seed)
    codec = MagnitudeCodec(MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=2, entries=8))
    codec.quantizer.codebooks.normal_(std=3.0)  # untrained ones are zero: all clips would sound alike
    return codec.eval()


class Level:
    """A reward: mean log-mel of the clip."""

    name = "level"
    version = "1"
    needs: frozenset[ClipView] = frozenset({"log_mel"})
    shift = -5.0
    scale = 2.0

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None
        return clips.log_mel.mean((1, 2))


class LowTokens:
    """A judge: share of codes in the lower half of the codebooks. It has a space of its own, too."""

    name = "low_tokens"
    version = "1"
    needs: frozenset[ClipView] = frozenset({"codes", "log_mel"})
    shift = 0.0
    scale = 1.0

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.codes is not None
        return (clips.codes < 4).mean((1, 2)).astype(np.float32)

    def embed(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None
        return clips.log_mel.mean(2)[:, :6].astype(np.float32)


def write_parts(directory: Path, policy: TinyMusicLM | None = None) -> tuple[Path, Path]:
    """The policy and the codec as checkpoints -> their folders."""
    save_policy(policy or tiny_policy(), directory / "policy")
    save_codec(tiny_codec(), directory / "codec")
    return directory / "policy", directory / "codec"
