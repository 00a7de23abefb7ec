"""A run on a cluster whose nodes are simulated by processes here: they die with all that runs on them, or are cut off.

A node that is cut off is one whose raylet is stopped: to the cluster it is gone, while its actors live on and could go
on answering. When it is let go on it finds itself replaced.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.place import Place
from tests.faults.schedule import Fault

WORKERS = {"generator": 1.0, "scorer": 1.0}
CPUS = 4  # of a node: one alone has room for all actors, two share them
# Ray asks a node so often and for so long whether it is there: sooner than by default, so that a cut is noticed
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Nodes(Place):
    """Head with the learner's group, and nodes of generators and scorers. A lost one is followed by a new one."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs}
        super().__init__(str(folder / "run"), folder / "run", environment, roles=("workers",))
        self._cluster = cluster
        self._head = self._raylets()
        self._cut: list[psutil.Process] = []
        for _ in range(2):
            cluster.add_node(WORKERS, CPUS)

    def strike(self, fault: Fault) -> None:
        busy = [raylet for raylet in self._raylets() if raylet not in self._head and _works(raylet)]
        node = busy[int(fault.chance * len(busy))]
        if fault.kind == "cut":
            node.send_signal(signal.SIGSTOP)
            self._cut.append(node)
            return
        for process in (node, *node.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def heal(self) -> None:
        """What was cut off is let go on, and another node takes its place."""
        for node in self._cut:
            with suppress(psutil.NoSuchProcess):
                node.send_signal(signal.SIGCONT)
        self._cut.clear()
        self._cluster.add_node(WORKERS, CPUS)

    def roots(self, driver: int) -> list[int]:
        """Actors are below the raylets of this cluster."""
        return [raylet.pid for raylet in self._raylets()]

    def _raylets(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            ours = str(self._cluster.folder) in " ".join(process.info["cmdline"] or [])
            if process.info["name"] == "raylet" and ours:
                found.append(process)
        return sorted(found, key=lambda process: process.create_time())


def _works(raylet: psutil.Process) -> bool:
    """Whether actors of the run are there."""
    titles = [(child.cmdline() or [""])[0] for child in raylet.children()]
    return any(title.startswith(("ray::GeneratorActor", "ray::Scorer")) for title in titles)


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    with ray_cluster(cpus=2, resources={"learner": 1.0}, more=HEALTH) as cluster:
        yield Nodes(cluster, folder)
