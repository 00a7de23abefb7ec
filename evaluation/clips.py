"""Sampled clips, and the views of them that scorers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codec.audio import mix_to_mono, resample
from codec.log_mel import SAMPLE_RATE_HZ as SCORING_RATE_HZ
from codec.log_mel import log_mel
from rewards.port import ClipBatch


@dataclass(frozen=True)
class Clips:
    """B sampled clips: which prompt, which noise, the codes and the sound."""

    prompt_ids: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    codes: np.ndarray  # [B, K, T] uint16
    pcm: np.ndarray  # [B, C, N] float32, as the codec decodes it
    sample_rate_hz: int

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int]) -> Clips:
        index = list(rows)
        ids, seeds = (tuple(column[i] for i in index) for column in (self.prompt_ids, self.seeds))
        prompts = tuple(self.prompts[i] for i in index)
        return Clips(ids, prompts, seeds, self.codes[index], self.pcm[index], self.sample_rate_hz)


def clip_views(clips: Clips) -> ClipBatch:
    """The views that scorers read, all from the waveform."""
    return pcm_views(clips.prompts, clips.pcm, clips.sample_rate_hz, clips.codes)


def pcm_views(
    prompts: Sequence[str], pcm: np.ndarray, sample_rate_hz: int, codes: np.ndarray | None = None
) -> ClipBatch:
    """pcm [B, C, N] float32 -> a batch with log-mel [B, 64, F] of its mono mix."""
    mono = resample(mix_to_mono(pcm)[:, 0], sample_rate_hz, SCORING_RATE_HZ)
    mel = log_mel(torch.from_numpy(mono)).numpy()
    return ClipBatch(tuple(prompts), sample_rate_hz, log_mel=mel, pcm=pcm, codes=codes)


def join_clips(parts: Sequence[Clips]) -> Clips:
    if not parts:
        return Clips((), (), (), np.empty((0, 0, 0), np.uint16), np.empty((0, 1, 0), np.float32), SCORING_RATE_HZ)
    return Clips(
        tuple(i for part in parts for i in part.prompt_ids),
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(seed for part in parts for seed in part.seeds),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.pcm for part in parts]),
        parts[0].sample_rate_hz,
    )
