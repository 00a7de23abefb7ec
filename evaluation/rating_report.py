"""The tables and the figure of a comparison by ratings: what is printed and what is saved, figure from saved table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa

from evaluation.data_table import write_csv
from evaluation.ratings import Standings, SystemDuel
from evaluation.statistics import Interval

WINS, MARKS = "wins.csv", "marks.csv"


def wins_table(standings: Standings) -> pa.Table:
    """One row a pair of systems; shares in [0, 1], each with the ends of its 95 % interval, and who rated."""
    return pa.Table.from_pylist([{**_flat(duel), "raters": standings.raters} for duel in standings.duels])


def marks_table(standings: Standings) -> pa.Table:
    """One row a system, the best mean mark first."""
    return pa.Table.from_pylist([_flat(system) for system in standings.systems])


def write_standings(standings: Standings, folder: str | Path) -> list[Path]:
    """Writes wins.csv, marks.csv and wins.png (the paper's figure 1) -> their paths."""
    from evaluation.figures import draw_wins  # matplotlib takes a second

    place = Path(folder)
    paths = [
        write_csv(place / WINS, wins_table(standings)),
        write_csv(place / MARKS, marks_table(standings)),
    ]
    return [*paths, draw_wins(place / WINS, place / "wins.png")]


def lines_of(standings: Standings) -> list[str]:
    """Both tables as text."""
    duels = [
        f"{f'{duel.system} : {duel.other}':32} {_percent(duel.win)} {_percent(duel.tie)} {_percent(duel.loss)} "
        f"{_percent(duel.win_rate)} [{100 * duel.win_rate.low:3.0f}, {100 * duel.win_rate.high:3.0f}]  {_p(duel)}"
        for duel in standings.duels
    ]
    systems = [
        f"{found.system:32} {found.mean.value:5.2f} [{found.mean.low:.2f}, {found.mean.high:.2f}] {found.wins:6}"
        f" {found.ratings:8}"
        for found in standings.systems
    ]
    return [
        f"{'':32} {'win':>7} {'tie':>7} {'loss':>7} {'win rate, 95 %':>18}  Wilcoxon over prompts, Holm",
        *duels,
        "",
        f"{'':32} {'mean mark, 95 %':18} {'wins':>6} {'ratings':>8}",
        *systems,
    ]


def _flat(record: object) -> dict[str, object]:
    """Dataclass -> row; an Interval becomes three columns."""
    row: dict[str, object] = {}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, Interval):
            row |= {field.name: value.value, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
        else:
            row[field.name] = value
    return row


def _percent(share: Interval) -> str:
    return f"{100 * share.value:5.1f} %"


def _p(duel: SystemDuel) -> str:
    word = "" if duel.significant else "  (not significant)"
    return f"p {duel.p_holm:.2g}, {duel.ratings} ratings of {duel.prompts} prompts{word}"
