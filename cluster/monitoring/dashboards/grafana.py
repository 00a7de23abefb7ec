"""Dashboards as Grafana's JSON, by Grafana's own builders; byte for byte the same each time."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from grafana_foundation_sdk.builders.common import StackingConfig, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable, ThresholdsConfig
from grafana_foundation_sdk.builders.dashboard import Row as RowBuilder
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.timeseries import Panel as LinesPanel
from grafana_foundation_sdk.builders.xychart import Panel as ScatterPanel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.xychart import SeriesMapping

from cluster.monitoring.dashboards.board import Dashboard, Panel, Variable

HEIGHT = 8
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard_json(dashboard: Dashboard) -> str:
    """The file that Grafana reads."""
    text: str = JSONEncoder(sort_keys=True, indent=1).encode(_built(dashboard).build())
    return json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def _built(dashboard: Dashboard) -> DashboardBuilder:
    builder = (
        DashboardBuilder(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.about)
        .tags(["musicrl"])
        .readonly()
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in dashboard.variables:
        builder = builder.with_variable(_variable(variable))
    numbers = count(1)
    for row in dashboard.rows:
        builder = builder.with_row(RowBuilder(row.title).id(next(numbers)))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel).id(next(numbers)))
    return builder


def _variable(variable: Variable) -> QueryVariable:
    return (
        QueryVariable(variable.name)
        .label(variable.title)
        .datasource(SOURCE)
        .query(f"label_values({variable.metric}, {variable.label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> Any:
    builder: Any = {"number": _number, "scatter": _scatter}.get(panel.kind, _lines)(panel)
    builder = builder.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    builder = builder.span(panel.width).height(HEIGHT)
    for place, query in enumerate(panel.queries):
        target = Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + place))
        builder = builder.with_target(target.datasource(SOURCE))
    if panel.least is not None:
        builder = builder.min(panel.least)
    if panel.most is not None:
        builder = builder.max(panel.most)
    return builder


def _lines(panel: Panel) -> LinesPanel:
    legend = VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM).display_mode(LegendDisplayMode.LIST)
    builder = LinesPanel().legend(legend).span_nulls(True)
    if panel.kind == "stacked":
        builder = builder.stacking(StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(60)
    return builder


def _number(panel: Panel) -> StatPanel:
    steps = [Threshold(value=None, color="text")]
    if panel.title.startswith("Alarm"):
        steps.append(Threshold(value=1, color="red"))
    return StatPanel().thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))


def _scatter(panel: Panel) -> ScatterPanel:
    """The second query over the first: both are joined by their time."""
    join = DataTransformerConfig(id_val="joinByField", options={"byField": "Time", "mode": "inner"})
    return ScatterPanel().with_transformation(join).series_mapping(SeriesMapping.AUTO)
