"""A Prometheus of a test's own, with the project's rules at a faster pace."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.monitoring.pace import Pace
from cluster.monitoring.rules import rule_file
from tests.cluster.ray_cluster import free_port

PROMETHEUS = shutil.which("prometheus")


@dataclass(frozen=True)
class PrometheusServer:
    url: str

    def firing(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire now."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts", timeout=20) as answer:
            alerts: list[dict[str, Any]] = json.load(answer)["data"]["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def await_alert(self, name: str, limit_s: float = 400) -> dict[str, str]:
        """The labels of an alert, as soon as it fires."""
        give_up = time.monotonic() + limit_s
        while time.monotonic() < give_up:
            for labels in self.firing():
                if labels["alertname"] == name:
                    return labels
            time.sleep(0.5)
        raise AssertionError(f"{name} does not fire; firing: {self.firing()}")


@contextmanager
def prometheus_server(
    folder: Path, targets: dict[str, Sequence[str]], ray_folder: Path, pace: float
) -> Iterator[PrometheusServer]:
    """Scrapes `targets` (by job) and the nodes of the Ray session in `ray_folder` every second."""
    assert PROMETHEUS is not None
    (folder / "rules.yml").write_text(rule_file(Pace(pace)))
    jobs: list[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()
    ]
    service_discovery = str(ray_folder / "prom_metrics_service_discovery.json")
    jobs.append({"job_name": "ray", "file_sd_configs": [{"files": [service_discovery], "refresh_interval": "5s"}]})
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yml"]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": jobs}))
    port = free_port()
    command = [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'data'}"], stdout=log, stderr=log)
    try:
        server = PrometheusServer(f"http://127.0.0.1:{port}")
        _await(f"{server.url}/-/ready", folder / "prometheus.log")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _await(url: str, log: Path) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
