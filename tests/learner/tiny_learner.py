"""A small real policy, learners around it and batches for it, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from actors.records import TrainingBatch
from configs.schema import LearnerConfig
from learner.learner import Learner
from policy.log_probs import gather, log_distribution
from policy.port import SamplingSettings, Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

SETTINGS = SamplingSettings(temperature=0.9, guidance_scale=1.0)
GUIDED = SamplingSettings(temperature=0.9, guidance_scale=2.0)
FRAMES = 6
SHAPES = TinyMusicLMConfig(
    streams=(Stream("semantic", 16), Stream("acoustic", 12), Stream("acoustic", 8)),  # of unequal size
    max_frames=16,
    temporal_width=32,
    temporal_layers=2,
    temporal_heads=2,
    temporal_hidden=48,
    depth_width=16,
    depth_layers=1,
    depth_heads=2,
    depth_hidden=32,
)


def tiny_policy(seed: int = 0) -> TinyMusicLM:
    torch.manual_seed(seed)
    policy = TinyMusicLM(SHAPES, TextTokenizer(words=("slow", "fast", "piano", "drums"), buckets=4, length=6))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # far from uniform, so that every term matters
    return policy.eval()


def learner(config: LearnerConfig, settings: SamplingSettings = SETTINGS, seed: int = 0, steps: int = 100) -> Learner:
    return Learner(tiny_policy(seed), tiny_policy(seed), config, settings, steps)


def config(**changes: object) -> LearnerConfig:
    base = LearnerConfig(batch_size=8, micro_batch_size=8, warmup_steps=0, lr_schedule="constant", learning_rate=1e-3)
    return replace(base, **changes)


def batch(
    policy: TinyMusicLM, rows: int = 8, settings: SamplingSettings = SETTINGS, seed: int = 0, version: int = 0
) -> TrainingBatch:
    """On-policy by construction of the log-probabilities: random codes under `policy`'s own distribution."""
    rng = np.random.default_rng(seed)
    prompts = tuple(rng.choice(["slow piano", "fast drums", "drums", "piano solo"]) for _ in range(rows))
    codes = np.stack([rng.integers(0, stream.size, (rows, FRAMES)) for stream in policy.streams], 1)
    cells = torch.from_numpy(codes)
    with torch.no_grad():
        log_dist = log_distribution(policy, cells, policy.encode_text(prompts), settings)
    rewards = rng.standard_normal(rows).astype(np.float32)
    return TrainingBatch(
        row_ids=np.arange(rows),
        task_ids=np.zeros(rows, np.int64),
        prompts=prompts,
        codes=codes.astype(np.uint16),
        log_probs=gather(log_dist, cells).numpy(),
        policy_versions=np.full(rows, version, np.int64),
        rewards=rewards,
        scores={"quality": rewards * 2 + 3, "text_adherence": np.where(rewards > 0, rewards, np.nan)},
        sampling=settings,
    )
