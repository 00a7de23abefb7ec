"""Nodes that come, go and die under a run, with Ray's own autoscaler; the machines are simulated by processes here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.elastic_run import elastic_run, generator_nodes, generator_processes
from tests.system.tiny_world import TinyWorld, check_trained_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
IDLE_S = 6.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """The head is the learner's and the scorer's node; generators have none, and may have three."""
    groups = {"generator": {"resources": {"CPU": 1, "generator": 1}, "max_workers": 3}}
    with ray_cluster(cpus=2, resources={"learner": 1, "scorer": 1}, groups=groups, idle_s=IDLE_S) as started:
        yield started


def arguments(world: TinyWorld, run_dir: Path, **settings: Any) -> list[str]:
    """An asynchronous run in which sampling is the slow stage."""
    chosen: dict[str, Any] = {
        "pipeline__mode": "async", "actors__generators": 1, "actors__generators_max": 2, "actors__resize_rest_s": 3,
        "sampling__seconds": 1.28, "sampling__guidance_scale": 1.5, "learner__batch_size": 16,
        "actors__rollout_size": 4, "learner__micro_batch_size": 16, "run__checkpoint_every": 50,
    }  # fmt: skip
    return world.arguments(run_dir, **{**chosen, **settings})


def test_generators_go_from_no_node_to_two_and_back(cluster: RayCluster, world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert generator_nodes(cluster) == []
    with elastic_run(cluster, run_dir, arguments(world, run_dir, learner__steps=150)) as run:
        first_s = run.wait_until(lambda: len(run.rows()) > 0, 200, "the first step")
        second_s = run.wait_for("generators: 2 of 2 there", 200)
        assert len(generator_nodes(cluster)) == 2
        said = run.finish()
        ended_s = time.monotonic()
    assert "generators: room for 0 of 1 now, the autoscaler can add nodes" in said
    assert "generators: 1 to 2: a step needs" in said
    assert "generators: 2 to 0: no work is left for them" in said
    while generator_nodes(cluster):
        assert time.monotonic() - ended_s < 120
        time.sleep(0.5)
    back_s = time.monotonic() - ended_s
    check_trained_once(run_dir)
    print(f"\nfirst step after {first_s:.1f} s, two nodes {second_s:.1f} s later, none {back_s:.1f} s after the end")


def test_a_killed_node_is_replaced_and_what_its_actor_still_answers_is_refused(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = {"actors__generators": 2, "actors__generators_min": 2, "learner__steps": 2000}
    with elastic_run(cluster, run_dir, arguments(world, run_dir, **settings)) as run:
        run.wait_until(lambda: len(run.rows()) > 0, 200, "the first step")
        run.wait_until(lambda: len(generator_processes(cluster)) == 2, 100, "both generators")
        before = run.pace(10.0)
        printed = len(run.text())
        victim = generator_processes(cluster)[0]
        raylet = victim.parent()
        assert raylet is not None
        os.kill(raylet.pid, signal.SIGKILL)
        noticed_s = run.wait_for("is gone: replaced", 60, printed)
        alone = run.pace(8.0)
        replaced_s = noticed_s + 8.0 + run.wait_for("generators: 2 of 2 there", 200, printed)
        after = run.pace(10.0)
        os.killpg(run.process.pid, signal.SIGINT)
        run.process.wait(120)
        rows = run.rows()
    print(
        f"\nnoticed after {noticed_s:.1f} s, replaced after {replaced_s:.1f} s; steps/s before {before:.2f}, "
        f"with one left {alone:.2f}, after {after:.2f}; load {os.getloadavg()[0]:.1f}"
    )
    assert rows[-1]["late_generator"] >= 1
    assert rows[-1]["handed_back_generator"] >= 1
    assert rows[-1]["restarts_generator"] == 1
    assert after > 0.7 * before
    check_trained_once(run_dir)
