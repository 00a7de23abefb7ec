"""A run on a cluster whose nodes are simulated by processes here: they die with all that runs on them, or are cut off.

A node that is cut off is one whose raylet is stopped: to the cluster it is gone, while its actors live on and could go
on answering. When it is let go on it finds itself replaced.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.place import Place
from tests.faults.schedule import Fault

WORKERS = {"generator": 1.0, "scorer": 1.0}
CUT_S = 22.0  # at least: until the cluster holds the node for lost
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
        for _ in range(2):
            cluster.add_node(WORKERS, cpus=2)

    def strike(self, fault: Fault) -> None:
        nodes = [raylet for raylet in self._raylets() if raylet not in self._head]
        node = nodes[int(fault.chance * len(nodes))]
        if fault.kind == "kill":
            for process in (node, *node.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        else:
            node.send_signal(signal.SIGSTOP)
            time.sleep(CUT_S + fault.lasts_s)
            with suppress(psutil.NoSuchProcess):
                node.send_signal(signal.SIGCONT)
        self._cluster.add_node(WORKERS, cpus=2)

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


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    with ray_cluster(cpus=2, resources={"learner": 1.0}, more=HEALTH) as cluster:
        yield Nodes(cluster, folder)
