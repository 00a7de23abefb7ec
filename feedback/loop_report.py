"""The loop's report: README.md with a row a round, rounds.csv, and two figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.storage import write_text_atomic
from evaluation.data_table import write_csv
from evaluation.figures import draw_rounds
from feedback.loop_state import LoopState, stage_name

Row = dict[str, Any]
STAGES = ("collect", "reward", "tune", "publish", "personal", "tune group", "publish group", "simulated utility")


def write_report(state: LoopState) -> Path:
    """-> README.md in the loop's folder, with everything of the rounds that are finished."""
    rows = [row_of(state, number) for number in range(1, state.rounds_done() + 1)]
    place = state.settings.folder
    write_csv(place / "rounds.csv", pa.Table.from_pylist([_flat(row) for row in rows]))
    lines = ["# The loop", "", *_begin(state), "", *_table(rows, state.settings.simulated), ""]
    lines += _figures(state, rows)
    for row in rows:
        lines += ["", f"## Round {row['round']}", "", *_details(row)]
    write_text_atomic(place / "README.md", "\n".join(lines) + "\n")
    return place / "README.md"


def row_of(state: LoopState, number: int) -> Row:
    """Everything that a round's stages noted, and its minutes."""
    found = {stage: state.ledger.found(stage_name(number, stage)) or {} for stage in STAGES}
    return {"round": number, "minutes": sum(facts.get("seconds", 0.0) for facts in found.values()) / 60, **found}


def _begin(state: LoopState) -> list[str]:
    s, start = state.settings, state.start()
    who = (
        "Votes come from the simulated listeners of `feedback/simulated_listeners.yaml`: no person listened."
        if s.simulated
        else "Votes come from people, through the listening app."
    )
    first = f"It began with policy {start['policy']} and preference model {start['preference'] or 'none'}."
    return [who, first, "", f"The listening app plays it with `policies=loop=registry:{s.folder / 'published'}`."]


def _table(rows: list[Row], simulated: bool) -> list[str]:
    """The markdown table."""
    columns: dict[str, Callable[[Row], str]] = {
        "round": lambda r: str(r["round"]),
        "new votes": lambda r: f"{r['collect']['new']:,}",
        "newest against the one before": lambda r: _share(r["collect"], "wins"),
        "reward's accuracy on them, before": lambda r: _interval(r["reward"].get("accuracy_before"), "{:.3f}"),
        "after": lambda r: _interval(r["reward"].get("accuracy"), "{:.3f}"),
        "gate": lambda r: r["reward"]["status"],
        "KL, nats a clip": lambda r: f"{r['tune']['kl_clip']:.1f}",
        "alarms": lambda r: str(len(r["tune"]["alarms"])),
        "published": lambda r: r["publish"]["version"] if r["publish"]["published"] else "nothing new",
        "minutes": lambda r: f"{r['minutes']:.1f}",
    }
    if simulated:
        columns["simulated utility, gain so far"] = lambda r: _interval(r["simulated utility"].get("gain"), "{:+.2f}")
        columns["gain of the round"] = lambda r: _interval(r["simulated utility"].get("gain_of_round"), "{:+.2f}")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(show(row) for show in columns.values())} |" for row in rows]
    notes = ["", "Brackets: 95 % intervals over prompts. The accuracy is that on the round's held-out votes."]
    if simulated:
        notes.append(
            f"The simulated utility is hidden from everything that learns; it is measured on {_prompts(rows)} held-out "
            "prompts, each policy with the same noise; docs/simulated-listeners.md says what a unit is."
        )
    return lines + notes


def _figures(state: LoopState, rows: list[Row]) -> list[str]:
    """Drawn from tables beside them."""
    place, lines = state.settings.folder, []
    accuracy = [
        {"round": r["round"], "curve": curve, **{key: r["reward"][field][key] for key in ("value", "low", "high")}}
        for r in rows
        for field, curve in (("accuracy_before", "the reward that served"), ("accuracy", "retrained"))
        if field in r["reward"]
    ]
    utility = [
        {"round": r["round"], "curve": "gain over the first policy", **r["simulated utility"]["gain"]}
        for r in rows
        if "gain" in r["simulated utility"]
    ]
    for name, points, label in (
        ("accuracy", accuracy, "accuracy on the round's held-out votes"),
        ("simulated_utility", utility, "hidden utility of simulated listeners"),
    ):
        if points:
            write_csv(place / f"{name}.csv", pa.Table.from_pylist(points))
            draw_rounds(place / f"{name}.csv", place / f"{name}.png", label)
            lines += [f"![{label}]({name}.png)", ""]
    return lines


def _details(row: Row) -> list[str]:
    reward, tuned = row["reward"], row["tune"]
    lines = [
        f"- the gate on version {reward['version']} ({reward['votes']:,} votes, data {reward['data']}): "
        + reward["reason"]
        + ("" if reward["status"] == "passed" else f"; the round kept {reward['serving'] or 'none'}"),
        f"- run `{tuned['run']}`: kept step {tuned['step']} of {tuned['last_step']}, {tuned['kept']}",
    ]
    lines += [f"- alarm: {alarm}" for alarm in tuned["alarms"]]
    if row["collect"]["tuned_from"] != row["collect"]["newest"]:
        lines.append("- listeners liked the version before better: the round went back to it")
    lines += [f"- head for {name}: {head['reason']}" for name, head in row["personal"].get("heads", {}).items()]
    if row["tune group"].get("skipped"):
        lines.append(f"- no policy for a group: {row['tune group']['skipped']}")
    if row["publish group"].get("version"):
        lines.append(f"- policy of the group: {row['publish group']['version']}")
    parts = row["simulated utility"].get("parts", {})
    lines += [f"- {name}, gain over the first policy: {_interval(gain, '{:+.2f}')}" for name, gain in parts.items()]
    return lines


def _flat(row: Row) -> Row:
    """One level, for a CSV file: scalars and the three ends of each interval."""
    flat: Row = {"round": row["round"], "minutes": row["minutes"]}
    for stage in STAGES:
        for key, value in row[stage].items():
            name = f"{stage} {key}".replace(" ", "_")
            if isinstance(value, str | int | float):
                flat[name] = value
            elif isinstance(value, dict) and "low" in value:
                flat |= {f"{name}_{end}": value[end] for end in ("value", "low", "high")}
    return flat


def _interval(ends: Row | None, form: str) -> str:
    if not ends:
        return ""
    return f"{form.format(ends['value'])} [{form.format(ends['low'])}, {form.format(ends['high'])}]"


def _share(facts: Row, name: str) -> str:
    if not facts["compared"]:
        return "not compared"
    low, high = 100 * facts[f"{name}_low"], 100 * facts[f"{name}_high"]
    return f"{100 * facts[name]:.0f} % [{low:.0f}, {high:.0f}] of {facts['compared']}"


def _prompts(rows: list[Row]) -> int:
    return max((row["simulated utility"].get("prompts", 0) for row in rows), default=0)
