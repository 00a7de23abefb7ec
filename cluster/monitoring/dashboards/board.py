"""Dashboards, rows, panels and queries as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cluster.monitoring.series import family, meaning_of, series, unit_of

Kind = Literal["lines", "stacked", "number", "scatter"]
# The catalogue's units in Grafana's words; what is not here is shown as a plain number.
UNITS = {
    "s": "s",
    "bytes": "bytes",
    "steps": "short",
    "rows": "short",
    "restarts": "short",
    "stalls": "short",
    "versions": "short",
    "actors": "short",
    "tasks": "short",
    "calls": "short",
    "answers": "short",
    "scores": "short",
    "alarms": "short",
}


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = "{{run}}"


@dataclass(frozen=True)
class Panel:
    """needs: what a panel shows nothing without, beside a run ("gpu", "evaluation", "spilling", …); empty: nothing."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    about: str = ""
    kind: Kind = "lines"
    width: int = 8
    least: float | None = None
    most: float | None = None
    needs: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: values of `label` in `metric`, several or all."""

    name: str
    label: str
    metric: str
    title: str


RUN = Variable("run", "run", series("steps_planned"), "Run")
ROLE = Variable("role", "role", family("actors_ROLE"), "Role")
INSTANCE = Variable("instance", "instance", "ray_node_cpu_count", "Node")
OF_RUN = 'run=~"$run"'
OF_ROLE = 'run=~"$run",role=~"$role"'


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...] = field(default_factory=tuple)

    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


def of_catalogue(title: str, *names: str, kind: Kind = "lines", **more: object) -> Panel:
    """A panel of entries and families of the catalogue: its unit and its words come from there."""
    queries = tuple(_query(name, len(names) > 1) for name in names)
    about = meaning_of(names[0]) if len(names) == 1 else "\n\n".join(f"`{name}`: {meaning_of(name)}" for name in names)
    return Panel(title, queries, UNITS.get(unit_of(names[0]), "short"), about, kind, **more)  # type: ignore[arg-type]


def _query(name: str, several: bool) -> Query:
    for part, label in (("NAME", "name"), ("STAGE", "stage"), ("ROLE", "role")):
        if name.endswith(part):
            matchers = OF_ROLE if part == "ROLE" else OF_RUN
            return Query(f"max by (run, {label}) ({family(name, matchers)})", f"{{{{{label}}}}} {{{{run}}}}")
    legend = f"{name} {{{{run}}}}" if several else "{{run}}"
    return Query(f"max by (run) ({series(name, OF_RUN)})", legend)
