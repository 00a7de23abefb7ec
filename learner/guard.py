"""The guard of a run: after each evaluation it asks evaluation.guard what the run has become, and what must be kept.

Everything it knows is computed from the evaluation rows and the metrics of the run folder, so a resumed run knows the
same. It decides nothing about training but its end, where guard.stop_on_alarm asks for that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from configs.schema import Config
from evaluation.guard import Watch, kept_checkpoints, unweighted_rewards, watch, write_alarms
from evaluation.over_optimisation import Alarm
from evaluation.run_data import read_metrics
from evaluation.score_rows import read_rows

Row = dict[str, int | float]


class Guard:
    """One per run."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._kl_clip: dict[int, float] = {}  # learner step -> nats a clip
        self._watch: Watch | None = None

    def begin_at(self, version: int) -> None:
        """Goes on from the rows up to `version` that a resumed run has kept."""
        metrics = read_metrics(self._run_dir / "metrics.parquet")
        steps, kl_clip = metrics.get("learner_step", np.empty(0)), metrics.get("kl_clip", np.empty(0))
        known = zip(steps.tolist(), kl_clip.tolist(), strict=False)
        self._kl_clip = {int(step): value for step, value in known if step <= version}
        self._look(version, saved=False)

    def stepped(self, version: int, metrics: Row) -> None:
        """Takes the metrics of a finished step."""
        if "kl_clip" in metrics:
            self._kl_clip[version] = float(metrics["kl_clip"])

    def evaluated(self, version: int, saved: bool) -> tuple[Alarm, ...]:
        """Looks at the rows again, writes alarms.json -> the alarms that began with this evaluation.

        saved: a checkpoint of `version` is there or follows.
        """
        self._look(version, saved)
        begun = self._watch.begun if self._watch else ()
        return tuple(alarm for alarm in begun if alarm.learner_step == version)

    @property
    def first(self) -> Alarm | None:
        """The first alarm of the run so far."""
        return self._watch.alarms[0] if self._watch and self._watch.alarms else None

    @property
    def stops(self) -> bool:
        """Whether the run is to end here."""
        return self._config.guard.stop_on_alarm and self.first is not None

    @property
    def needed(self) -> tuple[int, ...]:
        """Checkpoints that must not go."""
        return self._watch.needed if self._watch else ()

    @property
    def proposed_step(self) -> int | None:
        """The checkpoint to go on with; None where none was evaluated."""
        return self._watch.proposal.learner_step if self._watch and self._watch.proposal else None

    def row(self) -> Row:
        """alarm and alarms, for the row of a step."""
        found = self._watch
        return {"alarm": int(bool(found and found.ringing)), "alarms": len(found.alarms) if found else 0}

    def _look(self, version: int, saved: bool) -> None:
        steps = np.array(sorted(self._kl_clip), np.int64)
        kl_clip = np.array([self._kl_clip[step] for step in steps.tolist()])
        kept = {step for step in kept_checkpoints(self._run_dir) if step <= version} | ({version} if saved else set())
        unweighted = unweighted_rewards(self._config.rewards)
        rules = self._config.guard
        self._watch = watch(read_rows(self._run_dir), steps, kl_clip, rules, unweighted, sorted(kept))
        if self._watch:
            write_alarms(self._run_dir, self._watch, rules)
