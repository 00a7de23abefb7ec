"""Pairs of clips as a policy plays them, in the views that simulated listeners hear and preference models read.

Clips are heard through the decoder's log-mel magnitudes, as rewards hear them in a run: no phase is built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from codec.checkpoint import load_codec
from evaluation.evaluate import clip_seed, frames_of
from feedback.simulated_ear import SimulatedEar
from feedback.simulated_parameters import Parameters
from feedback.simulated_utility import Heard, hear
from policy.checkpoint import load_policy, policy_version
from policy.port import SamplingSettings
from policy.sampler import Sampler


@dataclass(frozen=True)
class ClipPairs:
    """P pairs of clips of one prompt each; a is the one shown and heard first."""

    prompts: tuple[str, ...]
    seeds: np.ndarray  # [P, 2] int64: noise of a and b
    codes: np.ndarray  # [P, 2, K, T] uint16
    log_mel: np.ndarray  # [P, 2, 64, F] float32

    def __len__(self) -> int:
        return len(self.prompts)


class PairSource:
    """Samples pair number i of a study, the same for the same seed whatever is asked for before it."""

    def __init__(
        self,
        policy_dir: str | Path,
        codec_dir: str | Path,
        prompts: Sequence[str],
        sampling: SamplingSettings,
        seconds: float,
        seed: int,
    ) -> None:
        self._policy = load_policy(policy_dir)
        self._sampler, self._codec = Sampler(self._policy), load_codec(codec_dir)
        self._prompts, self._sampling, self._seed = tuple(prompts), sampling, seed
        self._frames = frames_of(seconds, self._policy)
        self.seconds = self._frames / self._policy.frame_rate_hz
        self.policy_version = policy_version(policy_dir)

    def pairs(self, numbers: Sequence[int], batch_size: int = 32) -> Iterator[ClipPairs]:
        """The pairs of these numbers, `batch_size` at a time."""
        for start in range(0, len(numbers), batch_size):
            yield self._pairs(numbers[start : start + batch_size])

    def _pairs(self, numbers: Sequence[int]) -> ClipPairs:
        prompts = tuple(self._prompts[_number(self._seed, i, 0) % len(self._prompts)] for i in numbers)
        seeds = np.array([[clip_seed(self._seed, 2 * i + side) for side in (0, 1)] for i in numbers], np.int64)
        acoustic = [k for k, stream in enumerate(self._policy.streams) if stream.kind == "acoustic"]
        with torch.no_grad():
            text = self._policy.encode_text([prompt for prompt in prompts for _ in (0, 1)])
            codes, _ = self._sampler.sample(text, seeds.reshape(-1).tolist(), self._frames, self._sampling)
            log_mel = self._codec.decode_log_mel(codes[:, acoustic])
        return ClipPairs(prompts, seeds, _paired(codes.numpy().astype(np.uint16)), _paired(log_mel.float().numpy()))


def hear_pairs(
    ear: SimulatedEar, pairs: ClipPairs, parameters: Parameters
) -> tuple[tuple[Heard, Heard], tuple[Heard, Heard]]:
    """What is heard of the clips a and b, as a whole and of their beginnings only: the arguments of `duel`."""
    sides = [pairs.log_mel[:, side] for side in (0, 1)]
    whole = tuple(hear(ear, mel, pairs.prompts) for mel in sides)
    prefix = tuple(hear(ear, mel, pairs.prompts, parameters.prefix_s) for mel in sides)
    return (whole[0], whole[1]), (prefix[0], prefix[1])


def _paired(clips: np.ndarray) -> np.ndarray:
    """[2 P, ...] -> [P, 2, ...]."""
    return clips.reshape(-1, 2, *clips.shape[1:])


def _number(*words: int) -> int:
    """A number that looks random and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big")
