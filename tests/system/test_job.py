"""A run submitted to a Ray cluster as a job, as on a cluster of machines: `ray start --head`, `ray job submit`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.system.tiny_world import ROOT, TinyWorld, check_trained_once, metrics_of

RAY = str(Path(sys.executable).with_name("ray"))
PRODUCT = (
    "configs", "cluster", "codec", "world", "policy", "rewards", "evaluation", "actors", "learner", "tests/system"
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]

    def submit(self, working_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", self.address, "--working-dir", str(working_dir), "--", *arguments]
        return subprocess.run(
            command, cwd=working_dir, env=self.environment, capture_output=True, text=True, timeout=280, check=False
        )


@pytest.fixture
def head() -> Iterator[Head]:
    """A head node with two CPUs and a token of its own; ended by process id, because `ray stop` would end every Ray of
    the machine."""
    folder = Path(tempfile.mkdtemp(prefix="rayhead"))  # short: it holds Unix sockets
    dashboard, gcs = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = f"{Path(RAY).parent}{os.pathsep}{environment['PATH']}"  # as in an activated environment
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    command = [RAY, "start", "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += [f"--temp-dir={folder}", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0"]
    before = {process.pid for process in psutil.process_iter()}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=200)
        yield Head(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            started_here = str(folder) in " ".join(process.info["cmdline"] or [])
            if process.pid not in before and started_here:
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(1.0)  # the daemons' children end with them
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    """A copy of the product without what the tests of a checkout leave lying about."""
    for part in PRODUCT:
        shutil.copytree(ROOT / part, tmp_path / "job" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "job")
    return tmp_path / "job"


@pytest.mark.slow
def test_a_submitted_run_succeeds_and_a_bad_one_gives_the_driver_its_status(
    world: TinyWorld, head: Head, working_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = ["python", "-m", "learner.main", *world.arguments(run_dir, learner__steps=2)]
    done = head.submit(working_dir, *arguments)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert f"report: {run_dir / 'report.html'}" in done.stdout
    assert len(metrics_of(run_dir)) == 2
    check_trained_once(run_dir)

    refused = head.submit(working_dir, *arguments)  # the folder is there now
    assert refused.returncode != 0
    assert "error: run.dir: got" in refused.stdout + refused.stderr


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
