"""Clusters that cannot run what they are asked to: said in one line, before or instead of a silent wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.paths import PROJECT_ROOT
from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.elastic_run import elastic_run
from tests.system.tiny_world import TinyWorld

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A learner's and scorer's node without an autoscaler."""
    with ray_cluster(cpus=2, resources={"learner": 1, "scorer": 1}) as started:
        yield started


def last_line(cluster: RayCluster, world: TinyWorld, run_dir: Path, status: int, **settings: Any) -> str:
    """What a run that ends with `status` says last."""
    with elastic_run(cluster, run_dir, world.arguments(run_dir, **settings)) as run:
        assert run.process.wait(200) == status, run.text()[-3000:]
        return run.text().rstrip().splitlines()[-1]


def test_resources_that_nobody_offers_are_said_at_the_start(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    said = last_line(cluster, world, tmp_path / "run", status=2)
    assert said == (
        "error: actors.generators: got 1 that ask for CPU 1, generator 0.001 each, which no node and no node type "
        "offers; to be had: no autoscaler was found, and no further node"
    )
    assert not (tmp_path / "run").exists()


def test_an_actor_on_a_node_with_other_packages_is_refused(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    """The node's packages say that numpy is another one (only their metadata does: nothing else could be run here)."""
    metadata = tmp_path / "packages" / "numpy-0.0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    path = os.pathsep.join((str(metadata.parent), str(PROJECT_ROOT)))
    cluster.add_node({"generator": 1}, cpus=1, environment={"PYTHONPATH": path})
    said = last_line(cluster, world, tmp_path / "run", status=1)
    assert said.startswith("error: generator: could not start: ")
    assert "numpy: got 0.0.1 on node " in said and "the driver's" in said
