"""`python -m cluster.monitoring.picture [key=value ...]`: a dashboard as a picture, from Prometheus, without Grafana.

    prometheus=http://127.0.0.1:9090
    board=training          or pipeline, fleet, listeners
    panels=                 titles, with commas between; empty: every panel of lines that has data
    run=                    name of one run; empty: all
    minutes=60              of history, up to now
    out=training.png        what is drawn lies beside it as a table, OUT.csv

The same queries as Grafana's, drawn for a report, or where no Grafana is at hand.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from cluster.errors import UserError
from cluster.monitoring.check import chosen_boards, filled_in
from cluster.monitoring.dashboards.board import Dashboard, Panel, Query
from cluster.monitoring.questions import Refused, ask_prometheus
from cluster.storage import write_atomic
from configs.command_line import exit_status_of, parse_settings

matplotlib.use("Agg")  # files only: no window, no display needed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

POINTS = 300  # asked for, of each series
COLUMNS, DPI = 3, 130
COLOURS = ("#1b6ca8", "#d1495b", "#2a9d5c", "#8f5fbf", "#e09f3e", "#4d4d4d")


@dataclass(frozen=True)
class PictureSettings:
    prometheus: str = "http://127.0.0.1:9090"
    board: str = "training"
    panels: str = ""
    run: str = ""
    minutes: float = 60.0
    out: str = "training.png"


def draw_board(settings: PictureSettings) -> Path:
    """-> the picture. Raises UserError for unknown names, no Prometheus, and where no panel has data."""
    boards = chosen_boards(settings.board)
    if len(boards) > 1:
        raise UserError(f"board: got {settings.board!r}, allowed one of them")
    board = boards[0]
    table = pa.Table.from_pylist(
        [row for panel in panels_of(board, settings.panels) for row in _points(panel, board, settings)]
    )
    if not table.num_rows:
        raise UserError(f"run: got {settings.run!r}, of which Prometheus has nothing in the last minutes")
    out = Path(settings.out)
    write_atomic(out.with_suffix(".csv"), lambda path: pyarrow.csv.write_csv(table, path))
    return _draw(table, board, out)


def panels_of(board: Dashboard, titles: str) -> list[Panel]:
    """Those of a line of titles, in its order, or all that have lines. Raises UserError for an unknown title."""
    able = {panel.title: panel for panel in board.panels() if panel.kind in ("lines", "stacked", "scatter")}
    wanted = [title.strip() for title in titles.split(",")] if titles else list(able)
    if unknown := [title for title in wanted if title not in able]:
        raise UserError(f"panels: got {unknown[0]!r}, allowed {', '.join(able)}")
    return [able[title] for title in wanted]


def _points(panel: Panel, board: Dashboard, settings: PictureSettings) -> Iterator[dict[str, object]]:
    """Rows panel, series, minute, value; minutes are counted from the beginning of what was asked for."""
    names = [variable.name for variable in board.variables]
    chosen = {"run": re.escape(settings.run).replace("\\", r"\\")} if settings.run else {}  # a pattern in quotes
    end, span_s = time.time(), 60 * settings.minutes
    for query in panel.queries:
        asked = {"start": end - span_s, "end": end, "step": max(1.0, span_s / POINTS)}
        try:
            found = ask_prometheus(settings.prometheus, "query_range", query=filled_in(query, names, chosen), **asked)
        except Refused as error:
            raise UserError(f"{panel.title}: Prometheus refuses its query: {error}") from None
        for series in found:
            legend = _legend(query, series["metric"])
            for moment, value in series["values"]:
                minute = (float(moment) - end + span_s) / 60
                yield {"panel": panel.title, "series": legend, "minute": minute, "value": float(value)}


def _legend(query: Query, labels: Mapping[str, str]) -> str:
    """Grafana's {{label}} filled in."""
    return re.sub(r"{{(\w+)}}", lambda word: labels.get(word[1], ""), query.legend).strip()


def _draw(table: pa.Table, board: Dashboard, out: Path) -> Path:
    """One panel beside the other, each over minutes since the first point; a scatter over its first series."""
    kinds = {panel.title: panel.kind for panel in board.panels()}
    titles = list(dict.fromkeys(table["panel"].to_pylist()))
    rows = -(-len(titles) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4.2 * COLUMNS, 2.6 * rows), squeeze=False)
    first = pc.min(table["minute"]).as_py()
    for axes, title in zip(grid.flat, titles, strict=False):
        own = table.filter(pc.equal(table["panel"], title))
        names = list(dict.fromkeys(own["series"].to_pylist()))
        curves = {name: own.filter(pc.equal(own["series"], name)) for name in names}
        if kinds[title] == "scatter":
            _scatter(axes, list(curves.items()))
        else:
            for place, (name, curve) in enumerate(curves.items()):
                minutes = pc.subtract(curve["minute"], first)
                axes.plot(minutes, curve["value"], color=COLOURS[place % len(COLOURS)], label=name, linewidth=1.2)
            axes.set_xlabel("minutes", fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1 and kinds[title] != "scatter":
            axes.legend(fontsize=6, frameon=False)
    for axes in list(grid.flat)[len(titles) :]:
        axes.set_axis_off()
    figure.tight_layout()
    write_atomic(out, lambda path: figure.savefig(path, dpi=DPI, format="png"))
    plt.close(figure)
    return out


def _scatter(axes: Axes, curves: Sequence[tuple[str, pa.Table]]) -> None:
    """The second series over the first, at the moments that both have."""
    (across, first), (up, second) = curves[:2] if len(curves) > 1 else (curves[0], curves[0])
    both = first.join(second.select(["minute", "value"]), "minute", join_type="inner", right_suffix="_up")
    axes.scatter(both["value"], both["value_up"], s=5, color=COLOURS[0])
    axes.set_xlabel(across, fontsize=7)
    axes.set_ylabel(up, fontsize=7)


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status_of(lambda: print(draw_board(parse_settings(words, PictureSettings()))))


if __name__ == "__main__":
    sys.exit(main())
