"""Clip makers as Ray actors. Torch is loaded in the actors only: the process that answers requests starts fast."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from cluster.member import PoolEvent
from cluster.placement import RoleResources, actor_options
from cluster.supervision import ActorPool
from feedback.settings import Settings
from feedback.takes import MadeClip, Take
from policy.port import SamplingSettings

log = logging.getLogger(__name__)

CALL_DEADLINE_S = 30.0  # one step of a pair: sampling, or turning it into sound
RESTARTS = 10**9  # a page that is open to the world goes on trying; the studio paces it
NICENESS = 5  # whoever answers requests goes first on a shared core


class MakerActor:
    """A ClipMaker in a process of its own; same arguments."""

    def __init__(self, **arguments: Any) -> None:
        from feedback.clip_maker import ClipMaker

        os.nice(NICENESS)
        self._maker = ClipMaker(**arguments)
        self._maker.warm_up()

    def sample(self, prompt: str, takes: Sequence[Take]) -> list[np.ndarray]:
        return self._maker.sample(prompt, takes)

    def render(self, prompt: str, takes: Sequence[Take], codes: Sequence[np.ndarray]) -> list[MadeClip]:
        return self._maker.render(prompt, takes, codes)


def clip_makers(settings: Settings, local: bool) -> ActorPool:
    """The pool of actors, not started yet."""
    maker = settings.maker
    options = actor_options(RoleResources(maker.cpus, float(maker.cpus)), on_this_node=False, local=local)
    arguments = {
        "policies": settings.policy_folders,
        "codec_dir": settings.codec,
        "seconds": settings.seconds,
        "sampling": SamplingSettings(settings.sampling.temperature, settings.sampling.guidance_scale),
        "loudness_dbfs": settings.loudness_dbfs,
        "threads": maker.cpus,
    }
    actor = ray.remote(MakerActor)

    def spawn(index: int) -> Any:
        return actor.options(**options).remote(**arguments)

    def report(event: PoolEvent) -> None:
        log.warning("%s %d was replaced: %s", event.role, event.index, event.reason)

    return ActorPool(
        "clip maker", spawn, maker.actors, deadline_s=CALL_DEADLINE_S, max_restarts=RESTARTS, on_event=report
    )
