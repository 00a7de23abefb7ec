"""A run on a cluster whose nodes come and go: what it says, how fast it is, and who of it lives where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from configs.paths import PROJECT_ROOT
from tests.cluster.ray_cluster import RAY, RayCluster

LOOK = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
nodes = [node for node in ray.nodes() if node["Alive"] and "generator" in node["Resources"]]
print("NODES", json.dumps([node["NodeID"] for node in nodes]))
"""


@dataclass
class ElasticRun:
    """A driver on the cluster's head. told: lines that it has printed, each with the seconds since the start."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path
    started_s: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, text: str, limit_s: float, after: int = 0) -> float:
        """Returns once `text` was printed beyond character `after`. -> seconds that it took from now."""
        return self.wait_until(lambda: text in self.text()[after:], limit_s, f"{text!r} to be printed")

    def wait_until(self, holds: Callable[[], bool], limit_s: float, what: str) -> float:
        began_s = time.monotonic()
        while not holds():
            if self.process.poll() is not None and not holds():
                raise AssertionError(f"ended with {self.process.returncode} before {what}\n{self.text()[-5000:]}")
            waited_s = time.monotonic() - began_s
            assert waited_s < limit_s, f"waited {waited_s:.0f} s for {what}\n{self.text()[-5000:]}"
            time.sleep(0.05)
        return time.monotonic() - began_s

    def rows(self) -> list[dict[str, Any]]:
        journal = self.folder / "metrics.jsonl"
        data = journal.read_bytes() if journal.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def pace(self, seconds: float, of_at_least: int = 5) -> float:
        """Steps a second over the next `seconds`, and as many steps at least."""
        first, began_s = len(self.rows()), time.monotonic()
        enough = lambda: time.monotonic() - began_s > seconds and len(self.rows()) - first >= of_at_least  # noqa: E731
        self.wait_until(enough, 120.0, f"{of_at_least} steps")
        return (len(self.rows()) - first) / (time.monotonic() - began_s)

    def finish(self, limit_s: float = 300.0) -> str:
        assert self.process.wait(limit_s) == 0, self.text()[-6000:]
        return self.text()


@contextmanager
def elastic_run(cluster: RayCluster, folder: Path, arguments: Sequence[str], **more: str) -> Iterator[ElasticRun]:
    """tests.faults.slow_generators_main on the head of the cluster."""
    output = folder.with_name(f"{folder.name}.txt")
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.slow_generators_main", *arguments],
            cwd=PROJECT_ROOT,
            env={**cluster.environment, "RAY_ADDRESS": cluster.gcs, "OMP_NUM_THREADS": "1", **more},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield ElasticRun(process, folder, output)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def generator_nodes(cluster: RayCluster) -> list[str]:
    """Ids of the alive nodes of the generators' group, as Ray says."""
    looked = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**cluster.environment, "RAY_ADDRESS": cluster.gcs},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert looked.returncode == 0, looked.stderr[-3000:]
    return list(json.loads(looked.stdout.split("NODES ", 1)[1]))


def generator_processes(cluster: RayCluster) -> list[psutil.Process]:
    """Actors of this cluster; the parent of each is the raylet of its node."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::SimulatedSlow"):
            parent = process.parent()
            if parent is not None and str(cluster.folder) in " ".join(parent.cmdline()):
                found.append(process)
    return found


def node_of(actor: psutil.Process) -> str:
    """The id of its node, which the simulated provider gives to the raylet."""
    raylet = actor.parent()
    assert raylet is not None
    return raylet.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]


def drain(cluster: RayCluster, node_id: str, seconds: int) -> None:
    """The notice that a cloud gives before it takes a spot machine away."""
    command = [RAY, "drain-node", f"--address={cluster.gcs}", f"--node-id={node_id}"]
    command += [
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=a test",
        f"--deadline-remaining-seconds={seconds}",
    ]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
