"""What a task number stands for: prompts, seeds and length of one unit of generator work.

All of it is a pure function of (run.seed, task number), so that a resumed run makes the same work again and the order
in which generators answer changes nothing.
"""

from __future__ import annotations

import numpy as np

from actors.records import RolloutTask
from configs.schema import Config
from learner.prompts import PromptCursor
from policy.port import SamplingSettings


class TaskPlan:
    """Numbers tasks 0, 1, 2, … of `rollout_size` sequences each, walking through the prompts in order."""

    def __init__(self, config: Config, cursor: PromptCursor, frame_rate_hz: float) -> None:
        self.rows = config.actors.rollout_size
        self.frames = max(1, round(config.sampling.seconds * frame_rate_hz))
        self.sampling = SamplingSettings(config.sampling.temperature, config.sampling.guidance_scale)
        self._group = config.sampling.group_size
        self._seed = config.run.seed
        self._cursor = cursor

    def task(self, task_id: int) -> RolloutTask:
        """The task of that number: rows / group_size prompts, each group_size times in a row."""
        count = self.rows // self._group
        prompts = self._cursor.take(task_id * count, count)
        grouped = tuple(prompt for prompt in prompts for _ in range(self._group))
        return RolloutTask(task_id, grouped, self._seeds(task_id), self.frames, self.sampling)

    def _seeds(self, task_id: int) -> tuple[int, ...]:
        """One noise seed per row, well apart for neighbours; each fits a signed 64-bit integer."""
        state = np.random.SeedSequence([self._seed, task_id]).generate_state(self.rows, np.uint64)
        return tuple(int(word >> np.uint64(1)) for word in state)
