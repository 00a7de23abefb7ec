"""A run, the listening app and Prometheus together: every panel shows something, planted faults ring their alerts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from cluster.monitoring.check import Answer, ask, ask_all, main
from cluster.monitoring.dashboards import DASHBOARDS, TRAINING
from cluster.monitoring.dashboards.board import Query
from cluster.monitoring.picture import main as draw
from evaluation.data_table import read_csv
from tests.cluster.prometheus_server import PROMETHEUS, PrometheusServer, prometheus_server
from tests.cluster.ray_cluster import RayCluster, free_port, ray_cluster
from tests.feedback_app.served_app import ServedApp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"),
]
PACE = 60.0  # five minutes of a rule pass in five seconds
STALL_S = 200.0  # the alert rings at half of it; on a busy machine a step may take as long as that


@dataclass(frozen=True)
class Watched:
    cluster: RayCluster
    prometheus: PrometheusServer
    faulty: Path  # while it exists, a reward gives no score for every second clip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The smoke preset as a job, with more steps than this test takes."""
    folder = tmp_path_factory.mktemp("watched")
    metrics, flag = free_port(), folder / "faulty"
    app = ServedApp(folder, ["maker.actors=1", "pool.pairs=2", "seconds=1"])
    with ray_cluster(cpus=2) as cluster:
        words = ["preset=smoke", f"run.dir={folder / 'run'}", f"metrics.port={metrics}", "pipeline.mode=async"]
        words += [
            "learner.steps=100000",
            "evaluation.every=2",
            "run.checkpoint_every=50",
            f"pipeline.stall_s={STALL_S}",
        ]
        words += ["evaluation.prompts=4", "evaluation.seconds=1", "evaluation.samples=1", "guard.diversity_prompts=2"]
        words += ["actors.deadline_s=900", "actors.rollout_size=8"]
        words += ["rewards.faulty.target=tests.cluster.faulty_reward:Faulty", f"rewards.faulty.options.flag={flag}"]
        submitted = cluster.submit(["python", "-m", "learner.main", *words], "--no-wait")
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        try:
            app.folder.mkdir(exist_ok=True)
            app.start()
            targets = {"musicrl": [f"127.0.0.1:{metrics}"], "musicrl-feedback": [f"127.0.0.1:{app.port}"]}
            with prometheus_server(folder, targets, cluster.folder, PACE) as prometheus:
                yield Watched(cluster, prometheus, flag)
        finally:
            app.kill()


def test_every_panel_shows_something(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    url = watched.prometheus.url
    wrong = _await_answers(url)
    assert not wrong, "\n".join(map(str, wrong))
    assert main([f"prometheus={url}"]) == 0
    assert "0 without an answer" in capsys.readouterr().out


def test_a_board_is_drawn_from_what_prometheus_has(watched: Watched, tmp_path: Path) -> None:
    out = tmp_path / "pipeline.png"
    assert draw([f"prometheus={watched.prometheus.url}", "board=pipeline", "minutes=5", f"out={out}"]) == 0
    panels = read_csv(out.with_suffix(".csv"))["panel"].to_pylist()
    assert out.stat().st_size > 20_000 and len(set(panels)) > 5


def test_a_planted_wrong_name_and_a_broken_query_are_found(watched: Watched) -> None:
    row = TRAINING.rows[0]
    for expr, problem in (('max by (run) (musicrl_rewrad{run=~"$run"})', "no data"), ("max by (run", "parse error")):
        panel = replace(row.panels[0], queries=(Query(expr),))
        board = replace(TRAINING, rows=(replace(row, panels=(panel,)),))
        (answer,) = ask_all(watched.prometheus.url, [board])
        assert answer.is_wrong and problem in str(answer)


def test_faults_ring_their_alerts(watched: Watched) -> None:
    prometheus = watched.prometheus
    assert not {"ScoresMissing", "RunStalled", "RunGone"} & {alert["alertname"] for alert in prometheus.firing()}

    watched.faulty.touch()
    assert prometheus.await_alert("ScoresMissing")["run"] == "run"
    watched.faulty.unlink()

    generator = _process(watched, "GeneratorActor")
    os.kill(generator, signal.SIGSTOP)
    try:
        assert prometheus.await_alert("RunStalled")["stage"] in ("sample", "wait", "publish", "evaluate")
    finally:
        os.kill(generator, signal.SIGCONT)

    os.kill(_driver(watched), signal.SIGKILL)
    assert prometheus.await_alert("RunGone")["run"] == "run"


def _await_answers(url: str) -> list[Answer]:
    """What is still wrong once all has had time to be there: the first evaluation takes a while."""
    give_up = time.monotonic() + 900
    while time.monotonic() < give_up:
        wrong = [answer for answer in ask_all(url, DASHBOARDS) if answer.is_wrong]
        judged, _ = ask(url, '{__name__=~"musicrl_judge_.+"}')
        if not wrong and judged:
            return []
        time.sleep(2)
    return wrong


def _process(watched: Watched, title: str) -> int:
    """A worker of the watched cluster; its parent is a raylet that names the cluster's folder."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith(f"ray::{title}") and _is_of(watched, process.parent()):
            return process.pid
    raise AssertionError(f"no {title}")


def _driver(watched: Watched) -> int:
    """The process of the job: the one that is told the run's folder."""
    flag = json.dumps(str(watched.faulty))[1:-1]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "learner.main" in words and any(flag in word for word in words):
            return process.pid
    raise AssertionError("no driver")


def _is_of(watched: Watched, process: psutil.Process | None) -> bool:
    return process is not None and str(watched.cluster.folder) in " ".join(process.cmdline())
