"""`python -m cluster.monitoring.check [prometheus=URL]`: asks every query of every dashboard, while a run goes on.

A panel without data is an error: a name that nobody exports looks like peace and quiet on a dashboard. Panels that
need more than a run (a GPU, an evaluation that was due) may be empty, and are listed. One line each; exit status 2 if
a panel that should show something shows nothing, or Prometheus refuses a query.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.monitoring.dashboards import DASHBOARDS
from cluster.monitoring.dashboards.board import Dashboard, Query
from cluster.monitoring.questions import Refused, ask_prometheus
from configs.command_line import exit_status_of, parse_settings
from configs.errors import UserError

EVERYTHING = ".*"
# What Grafana puts in before it asks; variables of a dashboard stand for all their values.
INTERVALS = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h"}


@dataclass(frozen=True)
class Settings:
    prometheus: str = "http://127.0.0.1:9090"
    boards: str = "training,pipeline,fleet,listeners"  # dashboards to ask, by the end of their names


@dataclass(frozen=True)
class Answer:
    """What came back for one query of a panel: how many series, or why Prometheus refused."""

    board: str
    panel: str
    expr: str
    needs: str
    series: int
    refused: str = ""

    @property
    def is_wrong(self) -> bool:
        return bool(self.refused) or (self.series == 0 and not self.needs)

    def __str__(self) -> str:
        shown = self.refused or (f"{self.series} series" if self.series else "no data")
        needs = f" (needs: {self.needs})" if self.needs and not self.series else ""
        return f"{self.board}: {self.panel}: {shown}{needs}" + (f": {self.expr}" if self.is_wrong else "")


def ask_all(url: str, dashboards: Sequence[Dashboard] = DASHBOARDS) -> list[Answer]:
    """Every query of every panel. Raises UserError where no Prometheus answers."""
    answers = []
    for board in dashboards:
        names = [variable.name for variable in board.variables]
        for panel in board.panels():
            for query in panel.queries:
                series, refused = ask(url, filled_in(query, names))
                answers.append(Answer(board.title, panel.title, query.expr, panel.needs, series, refused))
    return answers


def filled_in(query: Query, variables: Sequence[str], chosen: Mapping[str, str] | None = None) -> str:
    """The query as Grafana would send it, with everything chosen where `chosen` does not say what.

    Raises UserError for a variable that is not there.
    """
    expr = query.expr
    for name, value in {
        **INTERVALS,
        **{f"${name}": (chosen or {}).get(name, EVERYTHING) for name in variables},
    }.items():
        expr = expr.replace(name, value)
    left = re.search(r"\$\w+", expr)
    if left:
        raise UserError(f"query: got the variable {left[0]}, allowed {', '.join(variables)}: {query.expr}")
    return expr


def ask(url: str, expr: str) -> tuple[int, str]:
    """-> series in the answer, and why it was refused (empty: it was not). Raises UserError: no Prometheus there."""
    try:
        return len(ask_prometheus(url, "query", query=expr)), ""
    except Refused as error:
        return 0, str(error)


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status_of(lambda: _check(parse_settings(words, Settings())))


def _check(settings: Settings) -> int:
    answers = ask_all(settings.prometheus, chosen_boards(settings.boards))
    for answer in answers:
        print(f"error: {answer}" if answer.is_wrong else f"ok     {answer}")
    wrong = sum(answer.is_wrong for answer in answers)
    print(f"{len(answers)} queries, {wrong} without an answer")
    return 2 if wrong else 0


def chosen_boards(words: str) -> list[Dashboard]:
    """Raises UserError for a name that is none."""
    by_name = {board.uid.removeprefix("musicrl-"): board for board in DASHBOARDS}
    unknown = [word for word in words.split(",") if word not in by_name]
    if unknown:
        raise UserError(f"boards: got {unknown[0]!r}, allowed {', '.join(by_name)}")
    return [by_name[word] for word in words.split(",")]


if __name__ == "__main__":
    sys.exit(main())
