"""`report.html` of a run: one file to read and to listen to, that asks nothing of the network.

    run folder -> read_run -> sections (headline, clips, curves, frontier, judges, guard, …) -> template -> report.html

Every section works on what is there: a run of two steps without judges gives a shorter report.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from cluster.storage import write_text_atomic
from configs.paths import PROJECT_ROOT
from evaluation.charts import Chart, Line, line_chart
from evaluation.comparison import Comparison, compare_steps, first_and_last
from evaluation.frontier import frontier
from evaluation.guard_report import guard_section
from evaluation.picture import data_uri, mel_picture
from evaluation.run_data import RunData, read_run
from evaluation.sample_folder import Sample, read_samples, sample_steps
from evaluation.score_rows import MIXTURE, judges_of, prompt_means, score_matrix, steps_of
from evaluation.statistics import bootstrap_mean
from evaluation.words import describe, number, percent, signed, title_of

HERE = Path(__file__).resolve().parent
STAGE_ORDER = (
    "sample",
    "decode",
    "score",
    "insert",
    "learn",
    "publish",
    "evaluate",
    "checkpoint",
    "wait",
    "start",
    "other",
)


def write_report(run_dir: Path | str) -> Path:
    """Write RUN_DIR/report.html from whatever the run has left so far, all at once. -> its path."""
    run = read_run(run_dir)
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "title_of": title_of,
        "describe": describe,
        "signed": signed,
        "percent": percent,
        "number": number,
    }
    page = environment.get_template("report_template.html").render(
        style=Markup((HERE / "report.css").read_text()),
        script=Markup((HERE / "report.js").read_text()),
        **sections(run),
    )
    path = run.path / "report.html"
    write_text_atomic(path, page)
    return path


def sections(run: RunData) -> dict[str, Any]:
    """What the template shows, by name; None or empty where the run has nothing for it."""
    comparisons, source = headline(run)
    return {
        "name": run.path.resolve().name,
        "facts": facts(run),
        "comparisons": comparisons,
        "outcome": outcome(comparisons, run.summary),
        "bounds": gain_bounds(comparisons),
        "source": source,
        "standing": standing(run.summary),
        "measures": measures(run.summary),
        "pairs": clip_pairs(run),
        "curves": curves(run),
        "frontier": frontier_chart(run),
        "judges": judge_charts(run),
        "guard": guard_section(run),
        "ledger": ledger(run),
        "config_text": run.config_text,
        "versions": versions(run.config),
        "MIXTURE": MIXTURE,
    }


def facts(run: RunData) -> dict[str, Any]:
    """The line under the title."""
    learner, done = run.config.get("learner", {}), int(run.steps[-1]) if len(run.steps) else 0
    wall_s = float(sum(np.nansum(values) for values in run.stage_seconds().values()))
    return {
        "preset": run.config.get("preset", ""),
        "steps": done,
        "planned": learner.get("steps", done),
        "batch": learner.get("batch_size"),
        "mode": run.config.get("pipeline", {}).get("mode", ""),
        "minutes": wall_s / 60,
        "seed": run.config.get("run", {}).get("seed"),
    }


def headline(run: RunData) -> tuple[list[Comparison], str]:
    """Base against result: from the evaluation made after the run where there is one, else from the run's own."""
    for rows, source in ((run.final_rows, "final"), (run.rows, "run")):
        ends = first_and_last(rows)
        if ends is not None:
            return compare_steps(rows, *ends), source
    return [], "none"


def outcome(comparisons: list[Comparison], summary: dict[str, Any]) -> str:
    """The table in a sentence."""
    parts = []
    for c in comparisons:
        if c.judge == MIXTURE:
            gain, word = c.gain.gain_sd, {"rises": "rose", "falls": "fell", "unchanged": "moved"}.get(c.gain.verdict)
            if word:
                sure = "" if word != "moved" else ", which is within the noise"
                parts.append(f"The reward {word} by {signed(gain.value)} standard deviations of the base{sure}.")
    held_out = [c.gain.verdict for c in comparisons if not c.in_reward]
    if held_out and "unknown" not in held_out:
        counts = (held_out.count("rises"), held_out.count("falls"))
        up, down = ("none" if n == 0 else str(n) for n in counts)
        parts.append(
            f"Of {len(held_out)} held-out judges, {up} {_verb(counts[0], 'rise')} "
            f"and {down} {_verb(counts[1], 'fall')}."
        )
    if "kl" in summary:
        kl = number(summary["kl"]["clip"]["value"], 1)
        parts.append(f"It went {kl} nats from its reference for that, per clip of {summary['kl']['seconds']:g} s.")
    return " ".join(parts)


def _verb(count: int, verb: str) -> str:
    return verb + "s" * (count < 2)


def gain_bounds(comparisons: list[Comparison]) -> tuple[float, float]:
    """Ends of the common axis of all gains, in base standard deviations, with 0 inside."""
    gains = [c.gain.gain_sd for c in comparisons if np.isfinite(c.gain.gain_sd.low)]
    low, high = min([0.0, *(g.low for g in gains)]), max([0.0, *(g.high for g in gains)])
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def standing(summary: dict[str, Any]) -> dict[str, Any]:
    """Base and result between shuffled captions (0) and real clips (1), and the ends of the common axis."""
    places = {judge: place for judge, place in summary.get("positions", {}).items() if "base" in place}
    known = {
        judge: p for judge, p in places.items() if p["base"]["value"] is not None and p["result"]["low"] is not None
    }
    ends = [p[which][end] for p in known.values() for which in ("base", "result") for end in ("low", "high")]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    pad = 0.03 * (high - low)
    return {"places": known, "bounds": (low - pad, high + pad)} if known else {}


def measures(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What the final evaluation measured on whole sets of clips, as small bar charts: (name, value, interval)."""
    found = []
    diversity = summary.get("diversity")
    if diversity:
        bars = [(label, diversity[key]) for label, key in BARS if key in diversity]
        kept = diversity["ratio_to_base"]
        ends = f"{percent(kept['low'])} to {percent(kept['high'])}"
        note = f"The result keeps {percent(kept['value'])} ({ends}) of the base's."
        if "ratio_to_real" in diversity:
            note += f" It is {percent(diversity['ratio_to_real']['value'])} of that between real clips of one caption."
        found.append(_measure("Variety within a prompt", "mean cosine distance between its clips", bars, note))
    distance = summary.get("frechet")
    if distance:
        bars = [(label, {"value": distance[key], "low": None, "high": None}) for label, key in BARS if key in distance]
        verdict = {"falls": "The result is nearer.", "rises": "The result is farther away."}
        note = verdict.get(distance["verdict"], "No significant change.") + f" Change {_range(distance['change'])}."
        found.append(_measure("Distance from real clips", "Frechet, in a held-out judge's space", bars, note))
    return found


BARS = (("Base", "base"), ("Result", "result"), ("Real clips", "real"))


def _measure(title: str, unit: str, bars: list[tuple[str, dict[str, Any]]], note: str) -> dict[str, Any]:
    top = 1.05 * max([bar["high"] or bar["value"] or 0.0 for _, bar in bars] + [1e-9])
    return {"title": title, "unit": unit, "bars": bars, "top": top, "note": note}


def _range(interval: dict[str, Any]) -> str:
    return f"{signed(interval['value'], 3)} ({signed(interval['low'], 3)} to {signed(interval['high'], 3)})"


def versions(config: dict[str, Any]) -> dict[str, str]:
    """Software that wrote the report, and the SHA-256 of each model that the config names."""
    found = {"python": platform.python_version()}
    for package in ("torch", "ray", "numpy", "pyarrow", "encodec"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    rewards = {f"rewards.{name}": reward.get("checkpoint") for name, reward in config.get("rewards", {}).items()}
    policy = config.get("policy", {})
    models = {"policy": policy.get("checkpoint"), "reference": policy.get("reference")}
    models |= {"codec": config.get("codec", {}).get("checkpoint"), **rewards}
    for name, directory in models.items():
        weights = Path(directory or "") / "model.safetensors"
        places = [place for place in (weights, PROJECT_ROOT / weights) if directory and place.is_file()]
        if places:
            found[name] = f"sha256 {hashlib.sha256(places[0].read_bytes()).hexdigest()[:16]}"
    return found


def clip_pairs(run: RunData) -> list[dict[str, Any]]:
    """The same prompts before and after, with sound and picture; prompts in the order of the list, none picked out."""
    steps = sample_steps(run.path)
    if not steps:
        return []
    before = {clip.prompt_id: clip for clip in read_samples(run.path, steps[0])}
    after = {clip.prompt_id: clip for clip in read_samples(run.path, steps[-1])} if len(steps) > 1 else {}
    return [
        {"prompt": clip.prompt, "clips": [_clip(clip, "Before")] + [_clip(after[i], "After")] * (i in after)}
        for i, clip in before.items()
    ]


def _clip(sample: Sample, when: str) -> dict[str, Any]:
    return {
        "when": when,
        "step": sample.learner_step,
        "sound": data_uri("audio/wav", sample.path.read_bytes()),
        "picture": mel_picture(sample.path),
        "scores": {name: value for name, value in sample.scores.items() if value is not None and np.isfinite(value)},
    }


def curves(run: RunData) -> list[Chart]:
    """What happened while it learned, one chart a quantity."""
    found = [_curve(run, "Reward", "normalised", "What the learner maximises: the weighted sum.", mixture="reward")]
    for name in run.columns("reward_"):
        if name != "std":
            found.append(_curve(run, title_of(name), "raw score", describe(name), **{title_of(name): f"reward_{name}"}))
    found += [
        _curve(run, "KL per clip", "nats", "How far the policy has moved from its reference.", True, KL="kl_clip"),
        _curve(run, "Entropy", "nats per token", "A fall to zero would be a collapse.", entropy="entropy"),
        _curve(run, "Value loss", "", "How well the baseline foresees the reward.", True, loss="value_loss"),
        _curve(
            run,
            "Staleness",
            "versions",
            "Learner version minus the version that sampled a row.",
            True,
            mean="staleness",
            largest="staleness_max",
        ),
    ]
    return [chart for chart in found if chart is not None]


def _curve(run: RunData, title: str, unit: str, note: str, zero: bool = False, /, **columns: str) -> Chart | None:
    """One chart of metrics columns, given as label=column; None if the run has none of them."""
    known = {label: run.column(column) for label, column in columns.items()}
    lines = [Line(label, run.steps, values) for label, values in known.items() if values is not None]
    return line_chart(title, lines, unit=unit, note=note, zero=zero)


def frontier_chart(run: RunData) -> Chart | None:
    """Gain in the mixture and in each held-out judge against KL, a point for each checkpoint."""
    kl = run.column("kl_clip")
    if kl is None or len(steps_of(run.rows)) < 2:
        return None
    lines = []
    for judge in [MIXTURE, *judges_of(run.rows, in_reward=False)]:
        points = [p for p in frontier(run.rows, run.steps, kl, judge) if np.isfinite(p.gain_sd.value)]
        x, y = np.array([p.kl_clip for p in points]), np.array([p.gain_sd.value for p in points])
        notes = tuple(f"{p.learner_step}" for p in points) if judge == MIXTURE else ()
        lines.append(Line(title_of(judge), x, y, marked=True, smooth=False, notes=notes))
    note = "Numbers are learner steps. A held-out judge that turns down while the reward rises would be exploitation."
    return line_chart("Gain against KL", lines, unit="base sd", note=note, x_label="KL per clip, nats", zero=True)


def judge_charts(run: RunData) -> list[Chart]:
    """Mean score of each judge over the checkpoints, with its 95 % interval."""
    steps, charts = steps_of(run.rows), []
    if len(steps) < 2:
        return []
    for in_reward in (True, False):
        for judge in judges_of(run.rows, in_reward=in_reward):
            per_prompt = [prompt_means(score_matrix(run.rows, step, judge)) for step in steps]
            bands = [bootstrap_mean(means, resamples=2000) for means in per_prompt if len(means)]
            if len(bands) != len(steps):
                continue
            value, low, high = (np.array([getattr(b, end) for b in bands]) for end in ("value", "low", "high"))
            line = Line(title_of(judge), np.array(steps), value, low, high, marked=True, smooth=False)
            unit = "in the reward" if in_reward else "held out"
            charts.append(line_chart(title_of(judge), [line], unit=unit, note=describe(judge)))
    return [chart for chart in charts if chart is not None]


def ledger(run: RunData) -> list[dict[str, Any]]:
    """Where the wall clock went: seconds and share of each stage over the whole run."""
    totals = {name: float(np.nansum(values)) for name, values in run.stage_seconds().items()}
    whole = sum(totals.values())
    known = [name for name in STAGE_ORDER if name in totals] + sorted(set(totals) - set(STAGE_ORDER))
    return [{"stage": n, "seconds": totals[n], "share": totals[n] / whole} for n in known if whole and totals[n] > 0]
