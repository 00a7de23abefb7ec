"""Makes the two clips of a pair: samples policies, decodes the whole waveform, writes FLAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from codec.audio import normalise_loudness
from codec.checkpoint import load_codec
from evaluation.evaluate import decode, frames_of
from feedback.flac import sha256, write_flac
from feedback.records import Clip
from feedback.takes import MadeClip, Take
from policy.checkpoint import load_policy, policy_version
from policy.port import SamplingSettings
from policy.sampler import Sampler


class ClipMaker:
    """Policies and the codec on the CPUs it was given. A plain class; the app wraps it as a Ray actor.

    policies: name -> folder. Raises UserError where a model cannot be loaded.
    """

    def __init__(
        self,
        policies: Mapping[str, str],
        codec_dir: str,
        seconds: float,
        sampling: SamplingSettings,
        loudness_dbfs: float | None,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self._policies = {name: load_policy(folder) for name, folder in policies.items()}
        self._versions = {name: policy_version(folder) for name, folder in policies.items()}
        self._samplers = {name: Sampler(policy) for name, policy in self._policies.items()}
        self._codec = load_codec(codec_dir)
        self._seconds, self._sampling, self._loudness_dbfs = seconds, sampling, loudness_dbfs

    def sample(self, prompt: str, takes: Sequence[Take]) -> list[np.ndarray]:
        """-> codes [K, T] uint16 of each take."""
        codes: dict[Take, np.ndarray] = {}
        for name in {take.policy for take in takes}:
            own = [take for take in takes if take.policy == name]
            policy = self._policies[name]
            text = policy.encode_text([prompt] * len(own))
            frames = frames_of(self._seconds, policy)
            sampled, _ = self._samplers[name].sample(text, [take.seed for take in own], frames, self._sampling)
            codes |= zip(own, sampled.numpy().astype(np.uint16), strict=True)
        return [codes[take] for take in takes]

    def render(self, prompt: str, takes: Sequence[Take], codes: Sequence[np.ndarray]) -> list[MadeClip]:
        """Codes [K, T] of each take -> what is heard of them."""
        return [self._render(prompt, take, own) for take, own in zip(takes, codes, strict=True)]

    def _render(self, prompt: str, take: Take, codes: np.ndarray) -> MadeClip:
        with torch.inference_mode():
            tokens = torch.from_numpy(codes.astype(np.int64)).unsqueeze(0)
            pcm = decode(self._policies[take.policy], self._codec, tokens)[0].numpy()  # [C, N]
        if self._loudness_dbfs is not None:
            pcm = normalise_loudness(pcm, self._loudness_dbfs)
        rate_hz = self._codec.sample_rate_hz
        flac = write_flac(pcm, rate_hz)
        clip = Clip(
            clip_id=sha256(flac),
            prompt=prompt,
            policy=take.policy,
            policy_version=self._versions[take.policy],
            seed=take.seed,
            sample_rate_hz=rate_hz,
            seconds=pcm.shape[-1] / rate_hz,
            codes=codes,
        )
        return MadeClip(clip, flac)
