"""The study over all seeds so far: ratings pooled, tables and README.md, and which of the paper's orderings hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import write_text_atomic
from evaluation.data_table import read_csv
from evaluation.rating_report import write_standings
from evaluation.ratings import Standings, SystemDuel, compare_systems
from feedback.study_stages import FULL, SYSTEMS

MARGIN = 0.02  # of the preference model below the best accuracy possible


def write_summary(out: Path) -> Path:
    """-> README.md in `out`, with wins.csv, marks.csv and wins.png of all seeds beside it."""
    seeds = sorted(path.parent for path in out.glob("seed_*/study.json"))
    ratings = pa.concat_tables([pq.read_table(seed / "ratings.parquet") for seed in seeds])
    standings = compare_systems(ratings, list(SYSTEMS))
    write_standings(standings, out)
    by_seed = {seed.name: compare_systems(pq.read_table(seed / "ratings.parquet"), list(SYSTEMS)) for seed in seeds}
    tables = {seed.name: read_csv(seed / "accuracy.csv").to_pylist() for seed in seeds}
    lines = [
        "# The study with simulated listeners",
        "",
        "No person listened: votes and marks come from the simulated listeners of `feedback/simulated_listeners.yaml`,",
        "stated before the runs. Made by `python -m feedback.study`; everything is drawn from the CSV files here.",
        "",
        *_standings_lines(standings, len(seeds)),
        *_hidden_lines({seed.name: read_csv(seed / "hidden.csv").to_pylist() for seed in seeds}),
        *_accuracy_lines(tables),
        *_orderings(by_seed, tables),
        *[line for seed in seeds for line in _figures(seed)],
    ]
    write_text_atomic(out / "README.md", "\n".join(lines) + "\n")
    return out / "README.md"


def orderings(standings: Standings, accuracy: list[dict[str, Any]]) -> dict[str, bool]:
    """What the paper found, and whether one seed shows it. A comparison that was not made is left out."""
    found: dict[str, bool] = {}
    for system in ("R", "U", "RU"):
        duel = standings.duel(system, "base")
        if duel is not None:
            found[f"{system} beats the base significantly"] = duel.significant and duel.win_rate.value > 0.5
    found["RU has the highest mean mark"] = standings.systems[0].system == "RU"
    for other in ("R", "U"):
        duel = standings.duel("RU", other)
        if duel is not None:
            found[f"RU wins against {other} at least as often as it loses"] = duel.win.value >= duel.loss.value
    return found | _model_orderings({row["name"]: row for row in accuracy})


def _model_orderings(rows: dict[str, dict[str, Any]]) -> dict[str, bool]:
    model = rows[f"preference model, {FULL}"]["expected"]
    limit = rows["best possible, listener unknown"]["expected"]
    found = {f"preference model within {100 * MARGIN:.0f} points of the best accuracy": model >= limit - MARGIN}
    for rule in ("higher text_adherence", "higher quality"):
        found[f'preference model above "{rule}"'] = model > rows[rule]["expected_high"]
    for variant, word in (
        ("from scratch", "above the same network"),
        ("half the clip", "above"),
        ("fifth of the clip", "above"),
    ):
        row = rows.get(f"preference model, {variant}")
        if row is not None:
            found[f"preference model {word} {variant}"] = model > row["expected"]
    return found


def _standings_lines(standings: Standings, seeds: int) -> list[str]:
    pairs = [
        f"| {d.system} : {d.other} | {100 * d.win.value:.1f} | {100 * d.tie.value:.1f} | {100 * d.loss.value:.1f} | "
        f"{_rate(d)} | {d.p_holm:.2g} |"
        for d in standings.duels
    ]
    marks = [
        f"| {s.system} | {s.mean.value:.2f} [{s.mean.low:.2f}, {s.mean.high:.2f}] | {s.wins} | {s.ratings} |"
        for s in standings.systems
    ]
    return [
        f"## Side by side, {seeds} seed{'s' if seeds > 1 else ''} pooled",
        "",
        "Per cent of the ratings; win rate = wins / (wins + losses) with its 95 % interval over prompts; Wilcoxon's",
        "signed-rank test over prompts, adjusted after Holm.",
        "",
        "| pair | win | tie | loss | win rate | p |",
        "|---|---|---|---|---|---|",
        *pairs,
        "",
        "| system | mean mark | wins | ratings |",
        "|---|---|---|---|",
        *marks,
        "",
        "![Wins, ties and losses](wins.png)",
        "",
    ]


def _rate(duel: SystemDuel) -> str:
    rate = duel.win_rate
    if rate.value != rate.value:  # NaN
        return "ties only"
    return f"{100 * rate.value:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _hidden_lines(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the simulated listeners really think of the raters' clips: gains over the base, in their units."""
    lines = ["## Hidden utility of the raters' clips: gain over the base, paired by prompt", ""]
    lines += [f"| | {' | '.join(tables)} |", "|---" * (1 + len(tables)) + "|"]
    names = [(row["measure"], row["system"]) for row in next(iter(tables.values())) if row["system"] != "base"]
    for measure, system in names:
        found = [
            row for rows in tables.values() for row in rows if (row["measure"], row["system"]) == (measure, system)
        ]
        cells = [f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]" for row in found]
        lines.append(f"| {measure}, {system} | {' | '.join(cells)} |")
    return [*lines, ""]


def _accuracy_lines(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    names = list(dict.fromkeys(row["name"] for rows in tables.values() for row in rows))
    lines = ["## Preference model: expected accuracy on held-out pairs, per cent", ""]
    lines += [f"| | {' | '.join(tables)} |", "|---" * (1 + len(tables)) + "|"]
    for name in names:
        found = [next((row for row in rows if row["name"] == name), None) for rows in tables.values()]
        cells = [
            f"{100 * r['expected']:.1f} [{100 * r['expected_low']:.1f}, {100 * r['expected_high']:.1f}]" if r else ""
            for r in found
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _orderings(by_seed: dict[str, Standings], tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    found = {seed: orderings(standings, tables[seed]) for seed, standings in by_seed.items()}
    names = list(dict.fromkeys(name for held in found.values() for name in held))
    lines = ["## Which orderings hold", "", f"| | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|"]
    words = {True: "holds", False: "**does not hold**", None: ""}
    lines += [f"| {name} | {' | '.join(words[held.get(name)] for held in found.values())} |" for name in names]
    return [*lines, ""]


def _figures(seed: Path) -> list[str]:
    titles = {
        "rewards.png": "Rewards against KL (figures 4 and 5 of the paper)",
        "accuracy.png": "Accuracy of the preference model (figure 6)",
        "over_optimisation.png": "Over-optimisation (figures 7 and 8)",
    }
    lines = [f"## {seed.name}", ""]
    for name, title in titles.items():
        if (seed / name).exists():
            lines += [f"![{title}]({seed.name}/{name})", ""]
    return lines
