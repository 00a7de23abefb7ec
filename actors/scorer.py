"""A scorer: holds every reward model of the run and scores clips with one of them at a time.

What a reward model does wrong is an answer here, never an exception: it raised, it took too long, it returned another
shape. The deadline is an alarm in this process, which stops any Python that is stuck; what is stuck below Python is
left to the pool's own, later deadline, which costs the actor (actors.scorer_pool).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch

from actors.records import Rollout
from configs.schema import RewardConfig
from rewards.port import ClipBatch, ClipView, RewardModel, ScoreStatus
from rewards.registry import build_rewards

REASON_CHARS = 200


class DeadlinePassed(BaseException):
    """Not an Exception, so that a reward model's own `except Exception` does not swallow it."""


@dataclass(frozen=True)
class RewardFacts:
    """What the rest of the run has to know of a reward model without holding it."""

    version: str
    needs: frozenset[ClipView]
    shift: float
    scale: float


@dataclass(frozen=True)
class ScoreReply:
    """The outcome for n clips. `scores` [n] float32 may hold NaN; None where the status is not "ok"."""

    name: str
    version: str
    epoch: str
    status: ScoreStatus
    scores: np.ndarray | None
    reason: str
    seconds: float


class Scorer:
    """Every reward model of the config, on the CPUs it was given. Raises UserError where one cannot be built."""

    def __init__(self, reward_configs: Mapping[str, RewardConfig], epoch: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._models: dict[str, RewardModel] = {model.name: model for model in build_rewards(dict(reward_configs))}
        self._epoch = epoch

    def facts(self) -> dict[str, RewardFacts]:
        """By NAME, in the config's order."""
        return {
            name: RewardFacts(model.version, frozenset(model.needs), model.shift, model.scale)
            for name, model in self._models.items()
        }

    def score(
        self, name: str, clips: ClipBatch | Rollout, rows: Sequence[int] | None = None, deadline_s: float = math.inf
    ) -> ScoreReply:
        """Raw scores of `clips` (of its `rows`, where given) by the reward NAME."""
        batch = clips.clips if isinstance(clips, Rollout) else clips
        batch = batch if rows is None else batch.take(list(rows))
        model = self._models[name]
        started = time.perf_counter()
        status, scores, reason = _guarded(model, batch, deadline_s)
        seconds = time.perf_counter() - started
        return ScoreReply(name, model.version, self._epoch, status, scores, reason[:REASON_CHARS], seconds)


def _guarded(model: RewardModel, clips: ClipBatch, deadline_s: float) -> tuple[ScoreStatus, np.ndarray | None, str]:
    try:
        with _deadline(deadline_s), torch.inference_mode():
            scores = np.asarray(model.score(clips), dtype=np.float32)
    except DeadlinePassed:
        return "timeout", None, f"no score within {deadline_s:g} s"
    except Exception as error:  # a stranger's code: whatever it raises is its answer
        return "error", None, f"{type(error).__name__}: {' '.join(str(error).split())}"
    if scores.shape != (len(clips),):
        return "error", None, f"returned shape {list(scores.shape)}, allowed [{len(clips)}]"
    return "ok", np.where(np.isfinite(scores), scores, np.nan).astype(np.float32), ""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises DeadlinePassed in the body after `seconds`. Only a process's main thread can be given one."""
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise DeadlinePassed

    handler_before = signal.signal(signal.SIGALRM, ring)
    left_before_s, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_before_s)  # 0: none was set
        signal.signal(signal.SIGALRM, handler_before)
