"""The learner as an actor of its own: built from the config, fed with batches, asked for weights and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.records import TrainingBatch
from cluster.weight_bus import Probe, Publication, WeightBus
from cluster.weight_transports import make_transport
from configs.schema import Config, LearnerConfig
from learner.checkpoint import load_checkpoint, prune, save_checkpoint
from learner.learner import Learner
from learner.meeting import Place
from learner.ranks import Alone, Ranks, exchanging
from policy.checkpoint import load_policy
from policy.port import SamplingSettings, Stream

PROBE_PROMPTS = ("", "slow piano")
PROBE_FRAMES = 8


@dataclass(frozen=True)
class PolicyFacts:
    """What the rest of the run must know of the policy."""

    version: int
    frame_rate_hz: float
    streams: tuple[Stream, ...]


class LearnerActor:
    """Owns the Learner and the publisher's end of the weight bus; its state lives on in checkpoints only.

    place: of one of several workers, each an actor like this, which are all asked the same (cluster.actor_group). What
    there is one of, publications and answers, comes from the first.
    """

    def __init__(self, config: Config, epoch: str, threads: int, place: Place | None = None) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(config.run.seed)
        self._config = config
        self._ranks = ranks_at(place, config.learner, config.pipeline.stall_s)
        self._bus = WeightBus(epoch, make_transport(config.weights)) if self._ranks.leads else None
        self._whole: Publication | None = None  # what publications of changed tensors are laid over
        self._published = -1  # version
        # a broadcast would have to send the base, too, to whoever merges
        weights = config.weights
        self._adapters_alone = bool(
            config.learner.lora_rank and weights.changed_only and weights.backend == "object_store"
        )
        sampling = SamplingSettings(config.sampling.temperature, config.sampling.guidance_scale)
        device = "cuda" if config.learner.gpus and not self._ranks.spreads else "cpu"  # ranks move what they spread
        policy = load_policy(config.policy.checkpoint).to(device)
        shared = config.learner.lora_rank and config.policy.reference in ("", config.policy.checkpoint)
        anchor = policy if shared else load_policy(config.policy.reference or config.policy.checkpoint).to(device)
        self._learner = Learner(
            policy,
            anchor,
            config.learner,
            sampling,
            total_steps=config.learner.steps,
            ranks=self._ranks,
        )

    def facts(self) -> PolicyFacts:
        policy: Any = self._learner.policy
        return PolicyFacts(self._learner.version, policy.frame_rate_hz, policy.streams)

    def resume(self, checkpoint: str) -> dict[str, Any]:
        """Restores the learner -> the controller's state that was saved with it."""
        return load_checkpoint(checkpoint, self._learner)

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """One update -> its metrics. Raises NonFiniteLoss before anything changes."""
        with self._exchanging():
            return self._learner.step(batch)

    def publish(self, again: bool = False) -> Publication | None:
        """The current weights, on the bus; a version that is there already only `again`, for a reader that got it
        damaged. None from a worker that is not the first."""
        version = self._learner.version
        if self._published == version and not again:
            return self._bus.newest if self._bus is not None else None
        if self._adapters_alone:
            return self._publish_adapters(version, again)
        with self._exchanging():
            weights = self._learner.weights()
        self._published = version
        if self._bus is None:
            return None
        if self._config.weights.changed_only and self._whole is not None and not again:
            changing = {name: weights[name] for name in self._learner.trained_names}
            return self._bus.publish(changing, version, self._probe(), self._whole)
        self._whole = self._bus.publish(weights, version, self._probe())
        return self._whole

    def _publish_adapters(self, version: int, again: bool) -> Publication | None:
        first = self._published < 0 or again
        with self._exchanging():
            frozen = self._learner.frozen_weights() if first else {}
            adapters = self._learner.adapters()
        self._published = version
        if self._bus is None:
            return None
        if first:
            self._whole = self._bus.publish(frozen, version)
        return self._bus.publish(adapters, version, self._probe(), self._whole, merged=True)

    def save(self, run_dir: str, controller_state: dict[str, Any], needed: Sequence[int] = ()) -> str:
        """A complete checkpoint of the current version; older ones beyond `run.keep_checkpoints` go, but not those of
        the steps `needed`."""
        with self._exchanging():
            path = save_checkpoint(run_dir, self._learner.version, self._learner, controller_state, self._config)
        if self._ranks.leads:
            prune(run_dir, self._config.run.keep_checkpoints, needed)
        return str(Path(path))

    def _exchanging(self) -> AbstractContextManager[None]:
        return exchanging(self._ranks, self._config.learner.collective_timeout_s)

    def _probe(self) -> Probe:
        """A fixed sequence, the same in every run with these streams, and this policy's log-probability of it."""
        policy: Any = self._learner.policy
        sampling = self._learner.sampling
        noise = np.random.default_rng(0)
        shape = (len(PROBE_PROMPTS), PROBE_FRAMES)
        codes = np.stack([noise.integers(stream.size, size=shape) for stream in policy.streams], axis=1)
        log_prob = self._learner.probe(codes, policy.encode_text(PROBE_PROMPTS).cpu().numpy())
        return Probe(PROBE_PROMPTS, codes.astype(np.uint16), log_prob, sampling.temperature, sampling.guidance_scale)


def ranks_at(place: Place | None, config: LearnerConfig, start_s: float) -> Ranks:
    """Those that share this worker's updates; it is alone without a place.

    Raises RunFailed where the others do not come within `start_s`.
    """
    if place is None and config.precision == "float32":
        return Alone()
    from learner.sharding import DistributedRanks, join  # loads torch.distributed, which a worker alone does without

    join(config, place, start_s)
    return DistributedRanks(config)
