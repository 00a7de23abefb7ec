"""The paper's figures from tables: each function reads a CSV file and draws a PNG beside it, and nothing else.

| function | figure of MusicRL | columns of the table |
|---|---|---|
| draw_wins | 1: wins, ties and losses | rating_report.wins_table |
| draw_reward_against_kl | 4 and 5: rewards against KL | curve_table.COLUMNS |
| draw_accuracy | 6: accuracy of the preference model by ablation | name, kind, accuracy, low, high |
| draw_over_optimisation | 7 and 8: what falls while a reward is driven up | curve_table.COLUMNS |
| draw_guard | none: a guard's curves, alarm and loss | run, learner_step, curve, mean, se |
| draw_rounds | none: a loop's rounds | round, curve, value, low, high |

Source: MusicRL (arXiv 2402.04229), figures 1 and 4 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa

from cluster.storage import write_atomic
from evaluation.data_table import read_csv

matplotlib.use("Agg")  # files only: no window, no display needed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIN, TIE, LOSS = "#2a9d5c", "#c9c9c9", "#c8553d"
COLOURS = ("#1b6ca8", "#d1495b", "#2a9d5c", "#8f5fbf", "#e09f3e", "#4d4d4d")
GUARD_MARKS = (  # column, word, colour, line style
    ("alarm_step", "first alarm", LOSS, "--"),
    ("proposed_step", "proposed checkpoint", WIN, "-."),
    ("lost_step", "5 % of the gain are lost", "#4d4d4d", ":"),
)
DPI = 150
WIDTH_IN = 7.0


def draw_wins(table: str | Path, picture: str | Path) -> Path:
    """One bar a pair of systems: wins, ties, losses; the win rate with its interval at the right."""
    rows = read_csv(table).to_pylist()
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 0.9 + 0.42 * len(rows)))
    for place, row in enumerate(rows):
        left = 0.0
        for key, colour in (("win", WIN), ("tie", TIE), ("loss", LOSS)):
            share = 100 * row[key]
            axes.barh(place, share, left=left, color=colour, label=key if place == 0 else None, height=0.7)
            if share >= 6:
                axes.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=8)
            left += share
        axes.text(102, place, _win_rate(row), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row['system']} : {row['other']}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 128)
    axes.set_xticks(range(0, 101, 20))
    axes.spines["bottom"].set_bounds(0, 100)
    raters = rows[0]["raters"] if rows else ""
    axes.set_xlabel(f"per cent of the ratings; raters: {raters}; at the right, wins / (wins + losses)", fontsize=8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False, fontsize=8)
    return _save(figure, picture)


def draw_reward_against_kl(table: str | Path, picture: str | Path) -> Path:
    """A panel a judge, a curve a system: mean score with its interval against the KL from the reference."""
    return _draw_judges(read_csv(table), picture, "kl_clip", "KL from the reference, nats a clip")


def draw_over_optimisation(table: str | Path, picture: str | Path) -> Path:
    """A panel a judge over learner steps."""
    return _draw_judges(read_csv(table), picture, "learner_step", "learner step")


def draw_accuracy(table: str | Path, picture: str | Path) -> Path:
    """A point with its interval for each variant of the model (kind "model") and each simple rule (kind "rule"); the
    best accuracy possible (kind "limit") as a line."""
    rows = read_csv(table).to_pylist()
    shown = [row for row in rows if row["kind"] != "limit"]
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 0.9 + 0.36 * len(shown)))
    for place, row in enumerate(shown):
        middle, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
        colour = COLOURS[0] if row["kind"] == "model" else COLOURS[5]
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
    for row in rows:
        if row["kind"] == "limit":
            axes.axvspan(100 * row["low"], 100 * row["high"], color=WIN, alpha=0.15, linewidth=0)
            axes.axvline(100 * row["accuracy"], color=WIN, linewidth=1, label=row["name"])
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    axes.axvline(50, color="#777777", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on held-out votes, per cent", fontsize=8)
    return _save(figure, picture)


def draw_rounds(table: str | Path, picture: str | Path, label: str) -> Path:
    """A curve over the rounds of a loop for each name in `curve`, a point with its interval a round."""
    rows = read_csv(table).to_pylist()
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 3.2))
    names = _names(rows, "curve")
    for place, (colour, name) in enumerate(zip(_colours(len(names)), names, strict=True)):
        own = [row for row in rows if row["curve"] == name]
        x, y, low, high = _columns(own, ("round", "value", "low", "high"))
        beside = 0.06 * (place - (len(names) - 1) / 2)  # so that intervals of one round do not hide each other
        axes.errorbar(x + beside, y, yerr=[y - low, high - y], fmt="o-", capsize=3, color=colour, label=name)
    axes.set_xticks(sorted({row["round"] for row in rows}))
    axes.set_xlabel("round", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    return _save(figure, picture)


def draw_guard(table: str | Path, marks: Mapping[str, Mapping[str, Any]], picture: str | Path) -> Path:
    """A panel a run: its curves with one standard error, the first alarm, the proposed step, and when it was too late.

    marks: run -> learner steps alarm_step, proposed_step and lost_step, each None where there is none.
    """
    rows = read_csv(table).to_pylist()
    runs, names = _names(rows, "run"), _names(rows, "curve")
    across = min(3, len(runs))
    figure, grid = plt.subplots(
        -(-len(runs) // across), across, figsize=(2.9 * across, 2.5 * -(-len(runs) // across)), squeeze=False
    )
    for axes, run in zip(grid.flat, runs, strict=False):
        for colour, name in zip(_colours(len(names)), names, strict=True):
            own = [row for row in rows if row["run"] == run and row["curve"] == name]
            x, y, se = _columns(own, ("learner_step", "mean", "se"))
            axes.plot(x, y, "-", marker="o", markersize=2.5, color=colour, label=name)
            axes.fill_between(x, y - se, y + se, color=colour, alpha=0.15, linewidth=0)
        for key, word, colour, style in GUARD_MARKS:
            if (step := marks.get(run, {}).get(key)) is not None:
                axes.axvline(step, color=colour, linestyle=style, linewidth=1.2)
            axes.plot([], [], color=colour, linestyle=style, linewidth=1.2, label=word)
        axes.set_title(run, fontsize=8)
        axes.set_xlabel("learner step", fontsize=7)
        axes.tick_params(labelsize=7)
    note = "gain over the first evaluation; judges and reward in standard deviations between its clips"
    _finish_grid(figure, grid, len(runs), note, ncols=3)
    figure.tight_layout()
    return _save(figure, picture)


def _win_rate(row: dict[str, Any]) -> str:
    rate, low, high = (row[key] for key in ("win_rate", "win_rate_low", "win_rate_high"))
    if rate is None or not np.isfinite(rate):
        return "ties only"
    return f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _draw_judges(table: pa.Table, picture: str | Path, x_column: str, x_label: str) -> Path:
    rows = table.to_pylist()
    judges = _names(rows, "judge")
    systems = _names(rows, "system")
    across = min(3, len(judges))
    down = -(-len(judges) // across)
    figure, grid = plt.subplots(down, across, figsize=(2.9 * across, 2.5 * down), squeeze=False)
    for axes, judge in zip(grid.flat, judges, strict=False):
        for colour, system in zip(_colours(len(systems)), systems, strict=True):
            curve = [row for row in rows if row["judge"] == judge and row["system"] == system]
            _curve(axes, curve, x_column, colour, system)
        axes.set_title(judge, fontsize=8)
        axes.set_xlabel(x_label, fontsize=7)
        axes.tick_params(labelsize=7)
    _finish_grid(figure, grid, len(judges), "solid: the run trains on it; dashed: it does not", ncols=4)
    return _save(figure, picture)


def _finish_grid(figure: Figure, grid: np.ndarray, used: int, note: str, ncols: int) -> None:
    """Hides the panels after the first `used`; one legend for all above them, `note` as its title."""
    for axes in list(grid.flat)[used:]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False, "fontsize": 8}
    figure.legend(handles, labels, ncols=ncols, title=note, **above).get_title().set_fontsize(8)


def _curve(axes: Axes, rows: list[dict[str, Any]], x_column: str, colour: str, label: str) -> None:
    if not rows:
        axes.plot([], [], color=colour, label=label)  # keeps the legend the same in every panel
        return
    ordered = sorted(rows, key=lambda row: row["learner_step"])
    x, y, low, high = _columns(ordered, (x_column, "mean", "low", "high"))
    style = "-" if ordered[0]["in_reward"] else "--"
    axes.plot(x, y, style, marker="o", markersize=3, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _columns(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[np.ndarray]:
    return [np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64) for name in names]


def _names(rows: list[dict[str, Any]], column: str) -> list[str]:
    """Different values in order of first appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _save(figure: Figure, picture: str | Path) -> Path:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    write_atomic(Path(picture), lambda path: figure.savefig(path, dpi=DPI, bbox_inches="tight", format="png"))
    plt.close(figure)
    return Path(picture)
