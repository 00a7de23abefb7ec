"""What guards a run, read from what the run has written: its alarms, and the checkpoint to go on with.

evaluation.parquet, metrics (KL), checkpoints/ ──▶ Watch ──▶ log, metrics, panel, report, alarms.json
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.storage import write_text_atomic
from configs.schema import AlarmRules, RewardConfig
from evaluation.over_optimisation import Alarm, History, Proposal, alarms, history_of, propose_checkpoint
from evaluation.run_data import RunData

FILE_NAME = "alarms.json"


@dataclass(frozen=True)
class Watch:
    """What the evaluations so far say."""

    history: History
    alarms: tuple[Alarm, ...]  # in the order in which they rang
    proposal: Proposal | None  # None where no kept checkpoint was evaluated
    needed: tuple[int, ...]  # checkpoints that the proposal of a coming evaluation may fall back on

    @property
    def ringing(self) -> tuple[Alarm, ...]:
        """Those of the newest evaluation."""
        return tuple(alarm for alarm in self.alarms if alarm.learner_step == self.history.steps[-1])

    @property
    def begun(self) -> tuple[Alarm, ...]:
        """Of each rule and guard, where it began to ring: not those that went on from the evaluation before."""
        rang = {(alarm.learner_step, alarm.rule, alarm.guard) for alarm in self.alarms}
        before = dict(zip(self.history.steps[1:].tolist(), self.history.steps[:-1].tolist(), strict=True))
        return tuple(a for a in self.alarms if (before.get(a.learner_step), a.rule, a.guard) not in rang)


def watch(
    rows: pa.Table,
    metric_steps: np.ndarray,
    kl_clip: np.ndarray,
    rules: AlarmRules,
    unweighted: Sequence[str],
    kept: Sequence[int],
) -> Watch | None:
    """From evaluation rows, the metrics columns and the checkpoints `kept`. None before the first evaluation."""
    if not len(rows):
        return None
    history = history_of(rows, metric_steps, kl_clip, unweighted)
    evaluated = set(kept) & set(history.steps.tolist())
    proposal = propose_checkpoint(history, sorted(evaluated), rules) if evaluated else None
    return Watch(history, tuple(alarms(history, rules)), proposal, _needed(history, evaluated, rules))


def watch_run(run: RunData, rules: AlarmRules | None = None) -> Watch | None:
    """`rules`: other ones than those of the run's config. None where the training reward was not evaluated."""
    rules = rules or rules_of(run.config)
    unweighted = [name for name, entry in (run.config.get("rewards") or {}).items() if entry.get("weight") == 0]
    kl = run.column("kl_clip")
    steps, kl = (run.steps, kl) if kl is not None else (np.empty(0), np.empty(0))
    try:
        return watch(run.rows, steps, kl, rules, unweighted, kept_checkpoints(run.path))
    except ValueError:  # evaluations without the training reward
        return None


def rules_of(config: Mapping[str, Any]) -> AlarmRules:
    """Of a stored config; one of an earlier version has no section `guard`: the defaults hold."""
    settings = config.get("guard") or {}
    names = {field.name for field in dataclasses.fields(AlarmRules)}
    return AlarmRules(**{name: value for name, value in settings.items() if name in names})


def unweighted_rewards(rewards: Mapping[str, RewardConfig]) -> list[str]:
    """Rewards of weight 0: recorded, not trained on."""
    return [name for name, reward in rewards.items() if reward.weight == 0]


def kept_checkpoints(run_dir: Path | str) -> list[int]:
    """Steps of the complete checkpoints, oldest first: their manifest is written last."""
    places = (Path(run_dir) / "checkpoints").glob("step_*/manifest.json")
    return sorted(int(match[1]) for place in places if (match := re.fullmatch(r"step_(\d+)", place.parent.name)))


def write_alarms(run_dir: Path | str, found: Watch, rules: AlarmRules) -> None:
    """RUN/alarms.json: the rules, every alarm, and the proposal."""
    proposal = found.proposal
    content: dict[str, Any] = {
        "learner_step": int(found.history.steps[-1]),
        "ringing": bool(found.ringing),
        "alarms": [dataclasses.asdict(alarm) for alarm in found.alarms],
        "proposal": proposal
        and {
            "learner_step": proposal.learner_step,
            "policy": f"checkpoints/step_{proposal.learner_step}/policy",
            "why": proposal.why,
        },
        "rules": {field.name: getattr(rules, field.name) for field in dataclasses.fields(AlarmRules)},
    }
    write_text_atomic(Path(run_dir) / FILE_NAME, json.dumps(content, indent=1) + "\n")


def _needed(history: History, evaluated: set[int], rules: AlarmRules) -> tuple[int, ...]:
    """An alarm takes back the evaluations at which its rule began to hold, so what was proposed that long ago, and the
    best that it was compared with, may be proposed again."""
    needed: set[int] = set()
    for count in range(max(1, len(history.steps) - rules.consecutive), len(history.steps) + 1):
        known = sorted(evaluated & set(history.steps[:count].tolist()))
        if known:
            proposal = propose_checkpoint(history.until(count), known, rules)
            needed |= {proposal.learner_step, proposal.best_step}
    return tuple(sorted(needed))
