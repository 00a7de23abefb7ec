"""Makes the two clips of a pair: samples policies, decodes the whole waveform, writes FLAC."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from codec.audio import normalise_loudness
from codec.checkpoint import load_codec
from evaluation.evaluate import decode, frames_of
from feedback.flac import sha256, write_flac
from feedback.records import Clip
from feedback.repertoire import folder_of
from feedback.takes import MadeClip, Take
from policy.checkpoint import load_policy, policy_version
from policy.port import SamplingSettings
from policy.samplers import PolicySampler, sampler_of
from policy.tiny_musiclm import TinyMusicLM

KEPT_POLICIES = 8  # loaded at once; one that is asked for again is loaded again


@dataclass(frozen=True)
class Player:
    """A policy that is loaded."""

    policy: TinyMusicLM
    sampler: PolicySampler
    version: str


class ClipMaker:
    """Policies and the codec on the CPUs it was given. A plain class; the app wraps it as a Ray actor.

    policies: name -> folder or registry:PLACE. Raises UserError where a model cannot be loaded.
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
        self._places, self._players = dict(policies), OrderedDict[Path, Player]()
        for name in policies:
            self._player(Take(name, 0))
        self._codec = load_codec(codec_dir)
        self._seconds, self._sampling, self._loudness_dbfs = seconds, sampling, loudness_dbfs

    def warm_up(self) -> None:
        """Makes a clip that nobody hears: what is compiled or loaded at first use is so before a listener waits."""
        take = Take(next(iter(self._places)), 0)
        self.render("", [take], self.sample("", [take]))

    def sample(self, prompt: str, takes: Sequence[Take]) -> list[np.ndarray]:
        """-> codes [K, T] uint16 of each take."""
        codes: dict[Take, np.ndarray] = {}
        for played in {(take.policy, take.version) for take in takes}:
            own = [take for take in takes if (take.policy, take.version) == played]
            player = self._player(own[0])
            text = player.policy.encode_text([prompt] * len(own))
            frames = frames_of(self._seconds, player.policy)
            sampled, _ = player.sampler.sample(text, [take.seed for take in own], frames, self._sampling)
            codes |= zip(own, sampled.numpy().astype(np.uint16), strict=True)
        return [codes[take] for take in takes]

    def render(self, prompt: str, takes: Sequence[Take], codes: Sequence[np.ndarray]) -> list[MadeClip]:
        """Codes [K, T] of each take -> what is heard of them."""
        return [self._render(prompt, take, own) for take, own in zip(takes, codes, strict=True)]

    def _render(self, prompt: str, take: Take, codes: np.ndarray) -> MadeClip:
        with torch.inference_mode():
            tokens = torch.from_numpy(codes.astype(np.int64)).unsqueeze(0)
            pcm = decode(self._player(take).policy, self._codec, tokens)[0].numpy()  # [C, N]
        if self._loudness_dbfs is not None:
            pcm = normalise_loudness(pcm, self._loudness_dbfs)
        rate_hz = self._codec.sample_rate_hz
        flac = write_flac(pcm, rate_hz)
        clip = Clip(
            clip_id=sha256(flac),
            prompt=prompt,
            policy=take.policy,
            policy_version=self._player(take).version,
            seed=take.seed,
            sample_rate_hz=rate_hz,
            seconds=pcm.shape[-1] / rate_hz,
            codes=codes,
        )
        return MadeClip(clip, flac)

    def _player(self, take: Take) -> Player:
        """Loads the policy unless it is there."""
        folder = folder_of(self._places[take.policy], take.version)
        if folder not in self._players:
            policy = load_policy(folder)
            self._players[folder] = Player(policy, sampler_of(policy), policy_version(folder))
        self._players.move_to_end(folder)
        while len(self._players) > max(KEPT_POLICIES, 2 * len(self._places)):
            self._players.popitem(last=False)
        return self._players[folder]
