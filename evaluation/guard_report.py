"""The report's part on over-optimisation: alarms, the guards' curves, and the checkpoint to go on with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.charts import Chart, Line, Mark, line_chart
from evaluation.guard import Watch, watch_run
from evaluation.over_optimisation import Alarm, History, Proposal, guard_scores, standardised
from evaluation.run_data import RunData
from evaluation.score_rows import MIXTURE
from evaluation.statistics import bootstrap_mean
from evaluation.words import title_of


@dataclass(frozen=True)
class GuardSection:
    """What the template shows."""

    first: Alarm | None  # the first alarm: the banner
    begun: tuple[Alarm, ...]  # of each rule and guard, where it began to ring
    proposal: Proposal | None
    stopped: bool  # the alarm ended the run
    charts: tuple[Chart, ...]


def guard_section(run: RunData) -> GuardSection | None:
    """None before two evaluations, or where the training reward was not evaluated."""
    found = watch_run(run)
    if found is None or len(found.history.steps) < 2:
        return None
    settings = run.config.get("guard") or {}
    return GuardSection(
        found.alarms[0] if found.alarms else None,
        found.begun,
        found.proposal,
        bool(found.alarms and settings.get("stop_on_alarm")),
        tuple(chart for chart in (_guards_chart(found), _diversity_chart(found)) if chart is not None),
    )


def _guards_chart(found: Watch) -> Chart | None:
    history = found.history
    scores = {title_of(MIXTURE): standardised(history.reward), **guard_scores(history)}
    lines = [line for label, each in scores.items() if (line := _curve(history, label, each)) is not None]
    note = "In standard deviations between the clips of the first evaluation, with 95 % intervals over prompts. "
    note += "What is held out should rise with the reward; where it turns down, the reward is being exploited."
    return line_chart("The reward and its guards", lines, unit="sd", note=note, zero=True, marks=_marks(found))


def _curve(history: History, label: str, scores: np.ndarray) -> Line | None:
    known = scores[:, np.isfinite(scores).all(0)]
    if known.shape[1] < 2:
        return None
    bands = [bootstrap_mean(row, resamples=1000) for row in known]
    value, low, high = (np.array([getattr(band, end) for band in bands]) for end in ("value", "low", "high"))
    return Line(label[:1].upper() + label[1:], history.steps.astype(float), value, low, high, marked=True, smooth=False)


def _diversity_chart(found: Watch) -> Chart | None:
    apart = found.history.diversity
    if apart is None or not np.isfinite(apart).any():
        return None
    line = Line("Diversity", found.history.steps.astype(float), apart, marked=True, smooth=False)
    note = "Mean distance between several clips of one prompt: near 0, all clips of a prompt sound alike."
    return line_chart("Diversity", [line], unit="cosine distance", note=note, zero=True, marks=_marks(found))


def _marks(found: Watch) -> list[Mark]:
    """The first alarm, and the proposed checkpoint."""
    marks = [Mark(float(found.alarms[0].learner_step), "alarm", "alarm")] if found.alarms else []
    return marks + ([Mark(float(found.proposal.learner_step), "keep", "keep")] if found.proposal else [])
