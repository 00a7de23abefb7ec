"""Where a run stands: its newest rows, smoothed for the eye, and how long it still takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from cluster.catalogue import STAGES

Row = Mapping[str, int | float]

WINDOW = 10  # rows over which shown values are averaged


class Standing:
    """What is known of the run so far, smoothed for the eye."""

    def __init__(self, total_steps: int, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_steps = total_steps
        self.title = title
        self.step = 0
        self.status = "starting"
        self.alarm = ""  # the newest one
        self.storage = ""  # what the run waits for, while object storage takes no write
        self.actors = ""  # how many there are, where that changes
        self.reward_history: list[float] = []
        self._recent: deque[Row] = deque(maxlen=WINDOW)
        self._first: dict[str, float] = {}
        self._judges: dict[str, float] = {}
        self._clock = clock
        self._started = self._last = clock()
        self._step_s: deque[float] = deque(maxlen=2 * WINDOW)
        self._stage_rows: deque[Row] = deque(maxlen=2 * WINDOW)

    def add(self, row: Row) -> None:
        """Takes the row of one learner step."""
        now = self._clock()
        self.step = int(row["learner_step"])
        if self._recent:  # the first step carries the start of the run
            self._step_s.append(float(row.get("seconds_step", now - self._last)))
            self._stage_rows.append(row)
        self._last = now
        self._recent.append(row)
        self.reward_history.append(float(row.get("reward", float("nan"))))
        self._judges |= {name: float(value) for name, value in row.items() if name.startswith("judge_")}
        for name, value in row.items():
            self._first.setdefault(name, float(value))

    def evaluated(self, means: Mapping[str, float]) -> None:
        """Takes mean scores of held-out judges by name, as measured before the first step or after any."""
        for name, mean in means.items():
            self._judges[f"judge_{name}"] = float(mean)
            self._first.setdefault(f"judge_{name}", float(mean))

    def value(self, name: str) -> float | None:
        """The mean of the last rows; of a judge, its last measurement. None if never seen."""
        if name in self._judges:
            return self._judges[name]
        seen = [float(row[name]) for row in self._recent if name in row and row[name] == row[name]]
        return sum(seen) / len(seen) if seen else None

    def first(self, name: str) -> float | None:
        return self._first.get(name)

    def names(self, prefix: str) -> list[str]:
        """Names seen that start with `prefix`, the batch's own spread left out."""
        return [name for name in self._first if name.startswith(prefix) and name != "reward_std"]

    def stage_shares(self) -> dict[str, float]:
        """Share of each stage in the wall clock of the last rows; empty before the second."""
        seconds = {stage: sum(row.get(f"seconds_{stage}", 0.0) for row in self._stage_rows) for stage in STAGES}
        total = sum(seconds.values())
        return {stage: spent / total for stage, spent in seconds.items() if spent > 0} if total else {}

    @property
    def step_s(self) -> float | None:
        return sum(self._step_s) / len(self._step_s) if self._step_s else None

    @property
    def left_s(self) -> float | None:
        return self.step_s * (self.total_steps - self.step) if self.step_s is not None else None

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._started

    def sequences_per_s(self) -> float | None:
        sequences = self.value("sequences")
        return sequences / self.step_s if sequences and self.step_s else None


def duration(seconds: float) -> str:
    """75 -> 1:15, 7500 -> 2:05:00."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
