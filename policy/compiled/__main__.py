"""`python -m policy.compiled`: compiles every kernel for this processor, so that no run waits for it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

import torch

from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.packed import PRECISIONS
from policy.musicgen.random_checkpoint import write_random
from policy.musicgen.sampler import MusicGenSampler
from policy.port import SamplingSettings
from policy.sampler import Sampler
from policy.text import default_tokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig


def warm_up() -> None:
    """Samples with small policies, and differentiates what was sampled: each kernel is called once."""
    temporal = TinyMusicLMConfig(temporal_width=32, temporal_layers=2, temporal_heads=2, temporal_hidden=64)
    small = replace(temporal, depth_width=32, depth_layers=2, depth_heads=2, depth_hidden=64)
    policy = TinyMusicLM(small, default_tokenizer())
    text = policy.encode_text(["a slow tune", ""])
    for scale in (1.0, 3.0):
        settings = SamplingSettings(guidance_scale=scale)
        codes, _ = Sampler(policy).sample(text, [0, 1], 3, settings)
        gather(log_distribution(policy, codes, text, settings), codes).sum().backward()
    torch.set_num_threads(1)
    with torch.no_grad():
        policy(codes, text)
    with tempfile.TemporaryDirectory() as folder:
        large: Any = load_policy(write_random(folder))
    for precision in PRECISIONS:
        MusicGenSampler(large, precision).sample(large.encode_text(["a slow tune", ""]), [0, 1], 2, settings)


if __name__ == "__main__":
    warm_up()
