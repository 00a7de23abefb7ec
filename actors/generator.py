"""A generator: samples the policy, decodes what it sampled, and serves no weights but those it was told to activate.

A generator is born without usable weights: whatever its checkpoint held, it refuses work until a publication is
active, so that one that was restarted can never serve old ones. Activation is checked twice: the learner's probe is
computed again from the module, and the sampler's own log-probabilities are compared with the module's.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from actors.published import PublishedWeights
from actors.records import Rollout, RolloutTask
from cluster.errors import RunFailed
from cluster.weight_bus import FETCH_DEADLINE_S, Probe, Publication
from codec.checkpoint import load_codec
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.packed import Precision
from policy.port import SamplingSettings
from policy.samplers import PolicySampler, sampler_of
from rewards.port import ClipBatch, ClipView

# nats: per token between two machines, and of one cell between sampler and module, that computed the same float32 sums
# (6e-5 is the most seen, on MusicGen's small shape; the tiny MusicLM's is 5e-7)
PROBE_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 0.5  # the same of a sampler in 16 bits (seen: 0.01 to 0.15)
SAMPLER_CHECK_FRAMES = 4


@dataclass(frozen=True)
class Activation:
    """The echo of a publication: what is active now."""

    version: int
    checksum: str
    probe_log_prob: float  # nats per token; NaN where the publication had no probe
    seconds: float


class Generator:
    """Policy, sampler and codec on the CPUs it was given. `views`: what the run's scorers read; `precision`: of the
    sampler, whose own log-probabilities are handed on, whatever the module's are."""

    def __init__(
        self,
        policy_dir: str,
        codec_dir: str,
        views: Collection[ClipView],
        epoch: str,
        threads: int,
        precision: Precision = "float32",
        deadline_s: float = FETCH_DEADLINE_S,
    ) -> None:
        torch.set_num_threads(threads)
        self._policy: Any = load_policy(policy_dir)
        self._weights = PublishedWeights(self._policy)
        self._sampler = sampler_of(self._policy, precision)
        self._gap_allowed = PROBE_TOLERANCE if precision == "float32" else ROUNDED_TOLERANCE
        self._codec = load_codec(codec_dir)
        self._views = frozenset(views)
        self._epoch = epoch
        self._deadline_s = deadline_s
        self._active: Activation | None = None

    def active_version(self) -> int | None:
        """The version it serves; None before the first activation."""
        return self._active.version if self._active else None

    def activate(self, publication: Publication) -> Activation:
        """Fetches the weights, puts them into the module and the sampler, and proves that both compute with them.

        Doing it again is free. Raises RunFailed for weights of another incarnation or an older version, for ones that
        do not fit, and where the proof fails; and what cluster.weight_bus.receive_into raises.
        """
        if publication.epoch != self._epoch:
            raise RunFailed(f"weights: got epoch {publication.epoch}, allowed {self._epoch}")
        if self._active is not None and publication.version < self._active.version:
            raise RunFailed(f"weights: got version {publication.version}, already at {self._active.version}")
        if self._active is not None and publication.checksum == self._active.checksum:
            self._active = replace(self._active, version=publication.version)
            return self._active
        started = time.perf_counter()
        self._active = None
        self._weights.load(publication, self._deadline_s)
        self._sampler.refresh()
        log_prob = self._prove(publication)
        seconds = time.perf_counter() - started
        self._active = Activation(publication.version, publication.checksum, log_prob, seconds)
        return self._active

    def rollout(self, task: RolloutTask) -> Rollout:
        """Samples and decodes a task. Raises RunFailed before the first activation."""
        rollout, clips = self.rollout_apart(task)
        return replace(rollout, clips=clips)

    def rollout_apart(self, task: RolloutTask) -> tuple[Rollout, ClipBatch]:
        """`rollout` in two objects: one without clips for the replay store, and the clips, which only scorers fetch."""
        if self._active is None:
            raise RunFailed("generator: asked for a rollout before any weights were activated")
        started = time.perf_counter()
        text = self._policy.encode_text(task.prompts)
        codes, log_probs = self._sampler.sample(text, task.seeds, task.frames, task.sampling)
        sampled = time.perf_counter()
        clips = self._decode(task, codes)
        seconds = {"sample": sampled - started, "decode": time.perf_counter() - sampled}
        rollout = Rollout(
            task=task,
            epoch=self._epoch,
            policy_version=self._active.version,
            codes=codes.cpu().numpy().astype(np.uint16),
            log_probs=log_probs.cpu().float().numpy(),
            clips=ClipBatch(task.prompts, self._codec.sample_rate_hz),
            seconds=seconds,
        )
        return rollout, clips

    def _decode(self, task: RolloutTask, codes: torch.Tensor) -> ClipBatch:
        """Codes [B, K, T] -> the views that the scorers read; acoustic streams only reach the codec."""
        acoustic = [k for k, stream in enumerate(self._policy.streams) if stream.kind == "acoustic"]
        heard = codes[:, acoustic]
        with torch.inference_mode():
            log_mel = self._codec.decode_log_mel(heard).cpu().float().numpy() if "log_mel" in self._views else None
            pcm = self._codec.decode(heard).cpu().float().numpy() if "pcm" in self._views else None
        sampled = codes.cpu().numpy().astype(np.uint16) if "codes" in self._views else None
        return ClipBatch(task.prompts, self._codec.sample_rate_hz, log_mel, pcm, sampled)

    def _prove(self, publication: Publication) -> float:
        """Raises RunFailed where module or sampler do not compute with the published weights."""
        gap = sampler_gap(self._policy, self._sampler)
        if not gap <= self._gap_allowed:
            raise RunFailed(f"weights of version {publication.version}: sampler and policy differ by {gap:.2e} nats")
        if publication.probe is None:
            return float("nan")
        log_prob = probe_log_prob(self._policy, publication.probe)
        if not abs(log_prob - publication.probe.log_prob) <= PROBE_TOLERANCE:
            raise RunFailed(
                f"weights of version {publication.version}: probe gives {log_prob:.6f} nats per token here, "
                f"{publication.probe.log_prob:.6f} at the learner"
            )
        return log_prob


@torch.inference_mode()
def probe_log_prob(policy: Any, probe: Probe) -> float:
    """Mean log-probability of the probe's cells, nats per token."""
    codes = torch.from_numpy(probe.codes.astype(np.int64)).to(_device(policy))
    text = policy.encode_text(probe.prompts).to(_device(policy))
    settings = SamplingSettings(probe.temperature, probe.guidance_scale)
    return float(gather(log_distribution(policy, codes, text, settings), codes).mean())


@torch.inference_mode()
def sampler_gap(policy: Any, sampler: PolicySampler) -> float:
    """Largest difference of a few freshly sampled log-probabilities from the module's own."""
    settings, text = SamplingSettings(1.0, 1.0), policy.encode_text(("",))
    codes, log_probs = sampler.sample(text, [0], SAMPLER_CHECK_FRAMES, settings)
    taught = gather(log_distribution(policy, codes, text, settings), codes)
    return float((log_probs - taught).abs().max())


def _device(policy: Any) -> torch.device:
    return next(policy.parameters()).device
