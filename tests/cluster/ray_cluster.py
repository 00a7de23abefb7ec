"""Ray nodes of a test on this machine: started with ports and a folder of their own, ended by process id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray._private.services import get_node_ip_address

from configs.paths import PROJECT_ROOT

RAY = str(Path(sys.executable).with_name("ray"))
STORE_BYTES = 150_000_000
SIMULATED_HEAD = "ray.head.default"  # the one name that the simulated provider gives its head


@dataclass(frozen=True)
class RayCluster:
    """A head that runs. environment: of whoever works with it, the token included where there is one."""

    folder: Path
    gcs: str
    dashboard: str
    environment: dict[str, str]

    def add_node(self, resources: Mapping[str, float], cpus: int, environment: Mapping[str, str] | None = None) -> None:
        """A further node, with more of an environment. Returns when it has started; it may still be joining."""
        command = [RAY, "start", f"--address={self.gcs}", f"--num-cpus={cpus}", f"--resources={json.dumps(resources)}"]
        command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--metrics-export-port=0"]
        command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"]
        _run(command, {**self.environment, **(environment or {})})

    def submit(
        self, entrypoint: Sequence[str], *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of a command that finds the project."""
        runtime = json.dumps({"env_vars": {"PYTHONPATH": str(PROJECT_ROOT)}})
        command = [RAY, "job", "submit", "--address", self.dashboard, "--runtime-env-json", runtime, *options, "--"]
        return subprocess.run(
            [*command, *entrypoint], env=dict(environment or self.environment), capture_output=True, text=True,
            timeout=500, check=False,
        )  # fmt: skip


@contextmanager
def ray_cluster(
    cpus: int,
    token: str = "",
    resources: Mapping[str, float] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    idle_s: float = 6.0,
    more: Mapping[str, str] | None = None,
) -> Iterator[RayCluster]:
    """A head with `cpus` CPUs and `resources`; with a token, nobody without it is served.

    groups: node types (`resources`, `max_workers`) that Ray's own autoscaler starts on machines that are simulated by
    processes here, and gives back after `idle_s` without work. more: of its environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="rayhead"))  # short: it holds Unix sockets
    dashboard, gcs = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = f"{Path(RAY).parent}{os.pathsep}{environment['PATH']}"  # as in an activated environment
    environment["PYTHONPATH"] = str(PROJECT_ROOT)
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment |= more or {}
    command = [RAY, "start", "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    if groups is not None:
        launch = simulated_launch(groups, {"CPU": cpus, **(resources or {})}, idle_s, f"{get_node_ip_address()}:{gcs}")
        (folder / "autoscaler.yaml").write_text(json.dumps(launch))  # JSON is YAML
        command += [f"--autoscaling-config={folder / 'autoscaler.yaml'}"]
        environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    command += [f"--temp-dir={folder}", f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"]
    command += ["--disable-usage-stats", "--metrics-export-port=0", f"--resources={json.dumps(resources or {})}"]
    command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"]
    before = {process.pid for process in psutil.process_iter()}
    try:
        _run(command, environment)
        yield RayCluster(folder, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        _end(folder, before)


def simulated_launch(
    groups: Mapping[str, Mapping[str, Any]], head: Mapping[str, float], idle_s: float, gcs: str
) -> dict[str, Any]:
    """A launcher's whole configuration: Ray's simulated provider fills in no defaults."""
    types = {name: {"node_config": {}, "min_workers": 0, **group} for name, group in groups.items()}
    provider = {"type": "fake_multinode", "gcs_address": gcs, "use_node_id_as_ip": True, "disable_node_updaters": True}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "musicrl-simulated",
        "max_workers": sum(group["max_workers"] for group in groups.values()),
        "upscaling_speed": 10,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {**provider, "disable_launch_config_check": True},
        "head_node_type": SIMULATED_HEAD,
        "available_node_types": {
            SIMULATED_HEAD: {"resources": dict(head), "node_config": {}, "max_workers": 0},
            **types,
        },
        **{f"{name}_commands": [] for name in commands},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _end(folder: Path, before: set[int]) -> None:
    """Ends what was started for this cluster: its daemons name its folder. `ray stop` would end every Ray here."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.pid not in before and str(folder) in line:
            os.kill(process.pid, signal.SIGKILL)
    time.sleep(1.0)  # the daemons' children end with them
    shutil.rmtree(folder, ignore_errors=True)
