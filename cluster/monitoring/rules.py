"""Recording and alert rules as Prometheus reads them, made from the catalogue's names."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.monitoring.alerts import Alert, fleet, listeners, pipeline, training
from cluster.monitoring.pace import Pace
from cluster.monitoring.series import family, series

MADE = "# Made by: python -m cluster.monitoring.build. Do not edit.\n"
EVERY_S = 15  # rules are evaluated, and metrics scraped
ALERTS = {"training": training, "pipeline": pipeline, "fleet": fleet, "listeners": listeners}


def rule_file(pace: Pace = Pace()) -> str:  # noqa: B008
    """The rule file of a Prometheus server."""
    return MADE + yaml.safe_dump({"groups": rule_groups(pace)}, sort_keys=False, width=110)


def rule_resource() -> str:
    """The same rules for the Prometheus operator on Kubernetes."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "musicrl", "namespace": "musicrl"},
        "spec": {"groups": rule_groups(Pace())},
    }
    return MADE + yaml.safe_dump(resource, sort_keys=False, width=110)


def rule_groups(pace: Pace) -> list[dict[str, Any]]:
    """One group of recordings, then the alerts by subject."""
    records = [{"record": name, "expr": expr} for name, expr in recordings(pace).items()]
    groups = {"recordings": records}
    for subject, alerts in ALERTS.items():
        groups[subject] = [_as_rule(alert, pace) for alert in alerts(pace)]
    every = pace.span(EVERY_S)
    return [{"name": f"musicrl-{name}", "interval": every, "rules": rules} for name, rules in groups.items()]


def recordings(pace: Pace) -> dict[str, str]:
    """What alerts and dashboards ask for more than once."""
    seconds = f"avg_over_time({family('seconds_STAGE')}[{pace.span(300)}])"
    steps = f"clamp_min(increase({series('learner_step')}[{pace.span(600)}]), 1)"  # at least the one under way
    return {
        "musicrl:reward:mean5m": f"avg by (run) (avg_over_time({series('reward')}[{pace.span(300)}]))",
        "musicrl:kl:mean5m": f"avg by (run) (avg_over_time({series('kl')}[{pace.span(300)}]))",
        "musicrl:stage_seconds:share5m": (
            f"sum by (run, stage) ({seconds}) / on (run) group_left () sum by (run) ({seconds})"
        ),
        "musicrl:scores_missing:share10m": (
            f"sum by (run) (increase({series('scores_missing')}[{pace.span(600)}]))"
            f" / sum by (run) ({steps} * {series('sequences')})"
        ),
    }


def _as_rule(alert: Alert, pace: Pace) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expr}
    if alert.for_s:
        rule["for"] = pace.span(alert.for_s)
    annotations = {"summary": alert.summary, "action": alert.action}
    return {**rule, "labels": {"severity": alert.severity}, "annotations": annotations}
