"""A cluster with node groups and a token, as the launch files make one: who may submit, and where roles land."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.system.tiny_world import TinyWorld, build_tiny_world, check_trained_once, metrics_of

ON_LEARNER = ("--entrypoint-resources", json.dumps({"learner": 0.001}))
LOOK = """
import json, ray
from ray.util.state import list_actors
ray.init("auto", log_to_driver=False)
groups = {node["NodeID"]: [name for name in node["Resources"] if name in ("learner", "generator", "scorer")]
          for node in ray.nodes()}
actors = list_actors(limit=1000)
print("ACTORS", json.dumps([(actor.class_name, groups.get(actor.node_id)) for actor in actors]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """The head is the learner's node: drivers on one machine, hence one address, all attach to the head."""
    with ray_cluster(cpus=1, token=secrets.token_hex(32), resources={"learner": 1}) as started:
        for group in ("generator", "scorer"):
            started.add_node({group: 1}, cpus=1)
        yield started


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return build_tiny_world(tmp_path_factory.mktemp("tiny_world"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_roles_land_on_their_groups_and_only_a_token_may_submit(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    entrypoint = ["python", "-m", "learner.main", *world.arguments(run_dir, learner__steps=3, pipeline__mode="async")]

    stranger = {**cluster.environment, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    refused = cluster.submit(entrypoint, *ON_LEARNER, environment=stranger)
    assert refused.returncode != 0 and not run_dir.exists()
    assert "401" in refused.stdout + refused.stderr or "oken" in refused.stdout + refused.stderr
    forged = cluster.submit(entrypoint, *ON_LEARNER, environment={**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64})
    assert forged.returncode != 0 and not run_dir.exists()

    done = cluster.submit(entrypoint, *ON_LEARNER)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert len(metrics_of(run_dir)) == 3
    check_trained_once(run_dir)

    looked = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**cluster.environment, "RAY_ADDRESS": cluster.gcs},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert looked.returncode == 0, looked.stderr[-3000:]
    actors = json.loads(looked.stdout.split("ACTORS ", 1)[1])
    landed = {(name, *groups) for name, groups in actors if name != "JobSupervisor"}
    assert landed == {
        ("GeneratorActor", "generator"),
        ("Scorer", "scorer"),
        ("LearnerActor", "learner"),
        ("ReplayStore", "learner"),
        ("Evaluator", "learner"),
    }
