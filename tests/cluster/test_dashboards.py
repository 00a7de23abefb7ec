"""Dashboards and rules: the files are what the code makes, and speak of names that somebody exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.catalogue import CATALOGUE, PREFIX
from cluster.metrics import PrometheusExporter
from cluster.monitoring.build import made_files
from cluster.monitoring.check import filled_in
from cluster.monitoring.check import main as check
from cluster.monitoring.dashboards import DASHBOARDS, PIPELINE
from cluster.monitoring.dashboards.board import Dashboard, Query
from cluster.monitoring.pace import Pace
from cluster.monitoring.rules import recordings, rule_groups
from cluster.monitoring.series import FEEDBACK, family, series
from configs.errors import UserError
from feedback.meter import Meter

made = made_files()


@pytest.mark.parametrize("path", made, ids=lambda path: path.name)
def test_the_files_are_what_the_code_makes(path: Path) -> None:
    assert path.read_text() == made[path], "run: make dashboards"


def test_they_are_made_the_same_each_time() -> None:
    assert made_files() == made


def test_a_name_that_the_catalogue_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="not in cluster/catalogue"):
        series("rewrad")
    with pytest.raises(KeyError, match="not in cluster/catalogue"):
        family("seconds_ROLE")


def test_every_name_of_a_run_or_the_app_is_exported() -> None:
    recorded = set(recordings(Pace()))
    app = {sample.name for sample in _app_samples()}
    for expr in _expressions():
        for name in re.findall(r"\bmusicrl[:_][\w:]+", expr.replace("musicrl_feedback_models", f"{FEEDBACK}models")):
            if name.startswith(FEEDBACK):
                assert name in app, expr
            elif ":" in name:
                assert name in recorded, expr
            elif '=~"' + name not in expr:  # the beginning of a family's names
                assert any(metric.pattern.fullmatch(name.removeprefix(PREFIX)) for metric in CATALOGUE), expr


def test_every_entry_of_the_catalogue_is_on_a_dashboard_or_in_a_rule() -> None:
    shown = "\n".join(_expressions())
    hidden = {"time_unix"}
    for metric in CATALOGUE:
        part = re.sub("NAME|STAGE|ROLE", "", metric.name)
        assert metric.name in hidden or PREFIX + part in shown, metric.name


def test_panels_have_numbers_titles_and_words_of_their_own() -> None:
    for board in DASHBOARDS:
        built = json.loads(made[next(path for path in made if path.stem == board.uid)])
        numbers = [panel["id"] for panel in built["panels"]]
        assert len(set(numbers)) == len(numbers) and 0 not in numbers
        titles = [panel.title for panel in board.panels()]
        assert len(set(titles)) == len(titles)
        assert all(query.legend for panel in board.panels() for query in panel.queries)


def test_a_variable_that_a_dashboard_lacks_is_found() -> None:
    for board in DASHBOARDS:
        for panel in board.panels():
            for query in panel.queries:
                assert "$" not in filled_in(query, [variable.name for variable in board.variables])
    with pytest.raises(UserError, match=r"got the variable \$run"):
        filled_in(Query('up{run=~"$run"}'), ["instance"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_understands_rules_and_queries(tmp_path: Path) -> None:
    """Queries of panels are checked as if they were recordings."""
    rules = [
        {"record": "query", "expr": filled_in(query, [variable.name for variable in board.variables])}
        for board in DASHBOARDS
        for query in _queries(board)
    ]
    unique = [{**rule, "labels": {"place": str(place)}} for place, rule in enumerate(rules)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": unique}]}))
    fast = tmp_path / "fast.yml"
    fast.write_text(yaml.safe_dump({"groups": rule_groups(Pace(60))}))
    done = subprocess.run(["promtool", "check", "rules", str(path), str(fast)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_prometheus_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    exporter = PrometheusExporter(0, "a-run")  # answers, but no questions
    try:
        assert check([f"prometheus=http://127.0.0.1:{exporter.port}"]) == 2
    finally:
        exporter.close()
    assert check(["prometheus=http://127.0.0.1:1"]) == 2
    assert check(["boards=training,fleat"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith(("error: prometheus: got", "error: boards: got")) for line in lines)


def _queries(board: Dashboard) -> list[Query]:
    return [query for panel in board.panels() for query in panel.queries]


def _expressions() -> list[str]:
    queries = [query.expr for board in DASHBOARDS for query in _queries(board)]
    queries += [variable.metric for variable in PIPELINE.variables]
    return queries + [rule["expr"] for group in rule_groups(Pace()) for rule in group["rules"]]


def _app_samples() -> list[object]:
    from prometheus_client.parser import text_string_to_metric_families

    meter = Meter()
    meter.compare({"base": "abc"})
    for name in ("pool_pairs", "queue", "makers_up", "agreement"):
        meter.watch(name, "as the app watches it", lambda: 1.0)
    return [sample for each in text_string_to_metric_families(meter.text().decode()) for sample in each.samples]
