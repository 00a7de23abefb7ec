"""Alerts against planted histories, by Prometheus' own unit tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.monitoring.pace import Pace
from cluster.monitoring.rules import ALERTS
from configs.paths import PROJECT_ROOT

CASES = Path(__file__).with_name("alert_rules.yml")
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


@promtool
def test_alerts_fire_where_they_must_and_are_silent_on_healthy_runs() -> None:
    done = subprocess.run(["promtool", "test", "rules", str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
@pytest.mark.parametrize("name", ["prometheus", "aws", "gcp", "on-premise"])
def test_prometheus_reads_the_scrape_files(name: str) -> None:
    path = PROJECT_ROOT / "cluster" / "monitoring" / "prometheus" / f"{name}.yml"
    done = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    text = CASES.read_text()
    page = (PROJECT_ROOT / "docs" / "monitoring.md").read_text()
    for alerts in ALERTS.values():
        for alert in alerts(Pace()):
            assert f'alertname="{alert.name}"' in text or f"alertname: {alert.name}" in text, alert.name
            assert alert.summary and alert.action.endswith(".")
            assert f"| {alert.name} | " in page and f" | {alert.severity} |" in page, alert.name


def test_times_shrink_with_the_pace() -> None:
    assert [Pace().span(seconds) for seconds in (15, 90, 300, 7200)] == ["15s", "90s", "5m", "2h"]
    assert [Pace(60).span(seconds) for seconds in (15, 300)] == ["250ms", "5s"]
    assert Pace(2).seconds(120) == "60"
