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
from policy.samplers import sampler_of


@dataclass(frozen=True)
class ClipPairs:
    """P pairs of clips of one prompt each; a is the one shown and heard first."""

    prompts: tuple[str, ...]
    seeds: np.ndarray  # [P, 2] int64: noise of a and b
    versions: np.ndarray  # [P, 2] str: content hash of the policy that played a, and b
    codes: np.ndarray  # [P, 2, K, T] uint16
    log_mel: np.ndarray  # [P, 2, 64, F] float32

    def __len__(self) -> int:
        return len(self.prompts)


class PairSource:
    """Samples pair number i of a study, the same for the same seed whatever is asked for before it.

    other_dir: another policy of the same tokens, which plays one clip, on a random side, of `other_share` of the pairs.
    """

    def __init__(
        self,
        policy_dir: str | Path,
        codec_dir: str | Path,
        prompts: Sequence[str],
        sampling: SamplingSettings,
        seconds: float,
        seed: int,
        other_dir: str | Path = "",
        other_share: float = 0.0,
    ) -> None:
        folders = [policy_dir, *([other_dir] if other_dir else [])]
        self._policies = [load_policy(folder) for folder in folders]
        self._samplers, self._codec = [sampler_of(policy) for policy in self._policies], load_codec(codec_dir)
        self._versions = np.array([policy_version(folder) for folder in folders], dtype=object)
        self._other_share = other_share if other_dir else 0.0
        self._prompts, self._sampling, self._seed = tuple(prompts), sampling, seed
        self._frames = frames_of(seconds, self._policies[0])
        self.seconds = self._frames / self._policies[0].frame_rate_hz

    def pairs(self, numbers: Sequence[int], batch_size: int = 32) -> Iterator[ClipPairs]:
        """The pairs of these numbers, `batch_size` at a time."""
        for start in range(0, len(numbers), batch_size):
            yield self._pairs(numbers[start : start + batch_size])

    def _pairs(self, numbers: Sequence[int]) -> ClipPairs:
        prompts = tuple(self._prompts[_number(self._seed, i, 0) % len(self._prompts)] for i in numbers)
        seeds = np.array([[clip_seed(self._seed, 2 * i + side) for side in (0, 1)] for i in numbers], np.int64)
        players = np.array([self._players(i) for i in numbers])  # [P, 2] which policy plays a, and b
        acoustic = [k for k, stream in enumerate(self._policies[0].streams) if stream.kind == "acoustic"]
        with torch.no_grad():
            codes = self._sample([prompt for prompt in prompts for _ in (0, 1)], seeds.reshape(-1), players.reshape(-1))
            log_mel = self._codec.decode_log_mel(codes[:, acoustic])
        sounds = _paired(codes.numpy().astype(np.uint16)), _paired(log_mel.float().numpy())
        return ClipPairs(prompts, seeds, self._versions[players], *sounds)

    def _sample(self, prompts: Sequence[str], seeds: np.ndarray, players: np.ndarray) -> torch.Tensor:
        """A clip for each prompt by the policy that `players` names. -> codes [B, K, T]."""
        codes: torch.Tensor | None = None
        for player in np.unique(players):
            rows = np.flatnonzero(players == player)
            text = self._policies[player].encode_text([prompts[int(row)] for row in rows])
            own, _ = self._samplers[player].sample(text, seeds[rows].tolist(), self._frames, self._sampling)
            codes = torch.empty((len(players), *own.shape[1:]), dtype=own.dtype) if codes is None else codes
            codes[torch.from_numpy(rows)] = own
        assert codes is not None, "at least one clip"
        return codes

    def _players(self, number: int) -> tuple[int, int]:
        """(0, 0), or with the other policy, 1, on either side."""
        if _number(self._seed, number, 1) / 2**64 >= self._other_share:
            return 0, 0
        return (1, 0) if _number(self._seed, number, 2) % 2 else (0, 1)


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
