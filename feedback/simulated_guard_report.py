"""Tables, figure and README.md of the guard's proof; the figure is drawn from the CSV file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from cluster.storage import write_text_atomic
from evaluation.data_table import write_csv
from evaluation.figures import draw_guard
from evaluation.over_optimisation import guard_scores, standardised
from feedback.simulated_guard import GuardSettings
from feedback.simulated_guard_runs import Watched
from feedback.simulated_verdict import LOSS, NOISE_SE, GainCurve, Verdict, gain_curve, verdict_of

HIDDEN = "hidden utility of the simulated listeners"


def write_report(runs: Sequence[Watched], settings: GuardSettings) -> Path:
    """runs.csv, curves.csv, guard.png -> README.md in `out`."""
    out = Path(settings.out)
    curves = {run.name: gain_curve(run.hidden) for run in runs if run.hidden}
    verdicts = [_verdict(run, curves[run.name]) for run in runs if run.name in curves]
    write_csv(out / "runs.csv", pa.Table.from_pylist([{**asdict(v), "in_time": v.in_time} for v in verdicts]))
    over = [run for run in runs if run.over_trained]
    write_csv(out / "curves.csv", pa.concat_tables([_curves(run, curves[run.name]) for run in runs]))
    marks = [asdict(verdict) for verdict in verdicts if verdict.over_trained]
    if over:
        names = {run.name for run in over}
        rows = pa.concat_tables([_curves(run, curves[run.name]) for run in over])
        write_csv(out / "over.csv", rows)
        draw_guard(out / "over.csv", {mark["run"]: mark for mark in marks if mark["run"] in names}, out / "guard.png")
    write_text_atomic(out / "README.md", "\n".join(_page(verdicts, settings, bool(over))) + "\n")
    return out / "README.md"


def _verdict(run: Watched, curve: GainCurve) -> Verdict:
    found = run.watch
    first = found.alarms[0] if found.alarms else None
    alarm = (first.learner_step, f"{first.rule}, {first.guard}".rstrip(", ")) if first else None
    proposal = found.proposal.learner_step if found.proposal else None
    return verdict_of(run.name, run.over_trained, curve, alarm, proposal)


def _curves(run: Watched, curve: GainCurve) -> pa.Table:
    """Run, learner step, curve, mean: the hidden utility, the reward and the guards in standard deviations."""
    history = run.watch.history
    rows = [
        {"run": run.name, "learner_step": int(step), "curve": HIDDEN, "mean": float(mean), "se": curve.se(row)}
        for row, (step, mean) in enumerate(zip(curve.steps, curve.mean, strict=True))
    ]
    scores = {"training reward": standardised(history.reward), **guard_scores(history)}
    for name, each in scores.items():
        paired = gain_curve(dict(zip(history.steps.tolist(), each, strict=True)))
        rows += [
            {"run": run.name, "learner_step": int(step), "curve": name, "mean": float(mean), "se": paired.se(row)}
            for row, (step, mean) in enumerate(zip(paired.steps, paired.mean, strict=True))
        ]
    return pa.Table.from_pylist(rows)


def _page(verdicts: Sequence[Verdict], settings: GuardSettings, drawn: bool) -> list[str]:
    over = [verdict for verdict in verdicts if verdict.over_trained]
    healthy = [verdict for verdict in verdicts if not verdict.over_trained]
    return [
        "# Does the guard ring before the harm is done?",
        "",
        "Made by `python -m feedback.simulated_guard`. No person listened: worth is the hidden utility of simulated",
        "listeners, which no reward, judge or rule of the guard reads. It is measured after the runs, from their",
        f"checkpoints, on {settings.n} held-out prompts with the same noise; figures are mean gains over the first",
        "checkpoint ± one standard error over prompts.",
        "",
        *_answer(over, healthy),
        "",
        *(_over_lines(over, settings) if over else []),
        *(["![Utility, reward and guards of the over-trained runs](guard.png)", ""] if drawn else []),
        *(_healthy_lines(healthy) if healthy else []),
        "`runs.csv` has every figure of the tables, `curves.csv` every curve. The rules and their numbers:",
        "[docs/over-optimisation.md](../../over-optimisation.md).",
    ]


def _answer(over: Sequence[Verdict], healthy: Sequence[Verdict]) -> list[str]:
    lost = [verdict for verdict in over if verdict.lost_step is not None]
    in_time = sum(bool(verdict.in_time) for verdict in lost)
    by_mean = [verdict for verdict in over if verdict.below_step is not None]
    silent = sum(verdict.alarm_step is None for verdict in healthy)
    lines = [f"**The alarm came before {100 * LOSS:.0f} % were lost in {in_time} of {len(lost)} over-trained runs.**"]
    if by_mean:
        before = sum(bool(verdict.before_mean) for verdict in by_mean)
        lines.append(f"By the mean alone, noise or not, in {before} of {len(by_mean)}.")
    if len(lost) < len(over):
        lines.append(f"{len(over) - len(lost)} more never lost so much.")
    if healthy:
        lines.append(f"**It was silent on {silent} of {len(healthy)} healthy runs.**")
    return lines


def _over_lines(over: Sequence[Verdict], settings: GuardSettings) -> list[str]:
    return [
        "## Over-trained on purpose",
        "",
        f"Preset `tiny_u` with `{settings.over}`,",
        f"paid for a preference model that learnt from {settings.pairs} simulated votes, those of one half of the",
        f"listeners; {_second(settings)}. Evaluated every {settings.every} steps.",
        f'"Lost": the first checkpoint below the best so far by more than {100 * LOSS:.0f} % of what that had gained,',
        f"and by more than {NOISE_SE:g} standard errors of the difference (the error in its column). The peak is that",
        'best one. "Below": the first whose mean alone lies so low.',
        "",
        "| run | peak | gain | below | lost | gain | first alarm | rule | gain | proposed | gain | in time |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *[
            f"| {v.run} | {v.peak_step} | {v.peak:.3f} ± {v.peak_se:.3f} | {_step(v.below_step)} "
            f"| {_step(v.lost_step)} | {_gain(v.lost, v.lost_se)} | {_step(v.alarm_step)} | {v.alarm or '–'} "
            f"| {_gain(v.at_alarm)} | {_step(v.proposed_step)} | {_gain(v.proposed)} | {_word(v.in_time)} |"
            for v in over
        ],
        "",
    ]


def _healthy_lines(healthy: Sequence[Verdict]) -> list[str]:
    return [
        "## Healthy runs",
        "",
        "| run | steps | gain at the end | first alarm | rule | proposed | gain |",
        "|---|---|---|---|---|---|---|",
        *[
            f"| {v.run} | {v.last_step} | {v.end:.3f} ± {v.end_se:.3f} "
            f"| {_step(v.alarm_step)} | {v.alarm or '–'} | {_step(v.proposed_step)} | {_gain(v.proposed)} |"
            for v in healthy
        ],
        "",
    ]


def _second(settings: GuardSettings) -> str:
    if settings.second:
        return "the guard's second model is one of other listeners that was there already"
    return "the guard's second model learnt from the other half's"


def _step(step: int | None) -> str:
    return "–" if step is None else str(step)


def _gain(value: float | None, se: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {se:.3f}" if se is not None else "")


def _word(in_time: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "nothing lost"}[in_time]
