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
from tests.faults.elastic_run import drain, elastic_run, generator_nodes, generator_processes, node_of
from tests.system.tiny_world import TinyWorld, assert_same_outcome, check_trained_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
IDLE_S = 6.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """The head is the learner's and the scorer's node; generators have none, and may have three."""
    groups = {"generator": {"resources": {"CPU": 1, "generator": 1}, "max_workers": 3}}
    resources = {"learner": 1, "scorer": 1}
    with ray_cluster(cpus=2, resources=resources, groups=groups, idle_s=IDLE_S) as started:
        yield started


def arguments(world: TinyWorld, run_dir: Path, **settings: Any) -> list[str]:
    """An asynchronous run in which sampling is the slow stage."""
    chosen: dict[str, Any] = {
        "pipeline__mode": "async",
        "actors__generators": 1,
        "actors__generators_max": 2,
        "actors__resize_rest_s": 3,
        "learner__batch_size": 32,
        "run__checkpoint_every": 50,
    }
    return world.arguments(run_dir, **{**chosen, **settings})


def test_generators_go_from_no_node_to_two_and_back(cluster: RayCluster, world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert generator_nodes(cluster) == []
    with elastic_run(cluster, run_dir, arguments(world, run_dir, learner__steps=24)) as run:
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


def test_a_killed_node_is_replaced_and_the_pace_comes_back(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = {"actors__generators": 2, "actors__generators_min": 2, "learner__steps": 2000}
    with elastic_run(cluster, run_dir, arguments(world, run_dir, **settings)) as run:
        run.wait_until(lambda: len(run.rows()) > 0, 200, "the first step")
        run.wait_until(lambda: len(generator_processes(cluster)) == 2, 100, "both generators")
        before = run.pace(16.0, of_at_least=4)
        printed = len(run.text())
        raylet = generator_processes(cluster)[0].parent()
        assert raylet is not None
        steps = len(run.rows())
        run.wait_until(lambda: len(run.rows()) > steps, 60, "one more step")
        time.sleep(0.5)  # the new weights are active: what is under way now is a rollout
        os.kill(raylet.pid, signal.SIGKILL)
        noticed_s = run.wait_for("lost with its node", 60, printed)
        lost_s = time.monotonic()
        alone = run.pace(10.0, of_at_least=2)
        run.wait_for("generators: 2 of 2 there", 200, printed)
        replaced_s = noticed_s + time.monotonic() - lost_s
        after = run.pace(16.0, of_at_least=4)
        os.killpg(run.process.pid, signal.SIGINT)
        run.process.wait(120)
        rows = run.rows()
    print(
        f"\nnoticed after {noticed_s:.1f} s, replaced after {replaced_s:.1f} s; steps/s before {before:.2f}, "
        f"with one left {alone:.2f}, after {after:.2f}; load {os.getloadavg()[0]:.1f}"
    )
    assert rows[-1]["handed_back_generator"] >= 1
    assert rows[-1]["restarts_generator"] >= 1
    assert after > 0.7 * before
    check_trained_once(run_dir)


def test_a_node_under_notice_is_left_in_time(cluster: RayCluster, world: TinyWorld, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {"actors__generators": 2, "actors__generators_min": 2, "learner__steps": 2000}
    with elastic_run(cluster, run_dir, arguments(world, run_dir, **settings)) as run:
        run.wait_until(lambda: len(generator_processes(cluster)) == 2, 300, "both generators")
        run.wait_until(lambda: len(run.rows()) > 0, 200, "the first step")
        printed = len(run.text())
        drain(cluster, node_of(generator_processes(cluster)[0]), seconds=20)
        noticed_s = run.wait_for("which is drained: replaced", 60, printed)
        replaced_s = noticed_s + run.wait_for("generators: 2 of 2 there", 200, printed)
        os.killpg(run.process.pid, signal.SIGINT)
        run.process.wait(120)
        rows = run.rows()
    print(f"\nnoticed after {noticed_s:.1f} s, replaced on another node after {replaced_s:.1f} s")
    assert rows[-1]["handed_back_generator"] == rows[-1]["late_generator"] == 0  # the call was ended in time
    check_trained_once(run_dir)


def test_in_synchronous_mode_nodes_that_come_and_go_change_no_bit(
    cluster: RayCluster, world: TinyWorld, tmp_path: Path
) -> None:
    still, moving = tmp_path / "still", tmp_path / "moving"
    settings = {"pipeline__mode": "sync", "learner__steps": 12, "run__checkpoint_every": 12}
    world.run(still, learner__batch_size=32, **settings)
    with elastic_run(cluster, moving, arguments(world, moving, **settings)) as run:
        said = run.finish()
    assert "generators: 1 to 2: a step needs" in said
    assert_same_outcome(still, moving, last_step=12)
