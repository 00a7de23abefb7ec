"""Actors that outlive their node: to the cluster they are gone, and they go on answering."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.faults.elastic_run import elastic_run
from tests.system.tiny_world import TinyWorld, assert_same_outcome, check_trained_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
STEPS = 10
NAP_S = 9.0  # longer than a lost node takes to be noticed by its port, shorter than Ray itself takes
# A worker looks once a second whether its raylet lives, and ends with it. One that hangs in a driver or in a disk does
# not; this one is told to look once a minute.
LINGER = {"RAY_raylet_death_check_interval_milliseconds": "60000"}


def test_what_an_orphan_of_a_dead_node_answers_is_refused_and_counted(world: TinyWorld, tmp_path: Path) -> None:
    still, struck, mark = tmp_path / "still", tmp_path / "struck", tmp_path / "nap"
    settings = {
        "learner__steps": STEPS,
        "actors__scorers": 1,
        "rewards__naps__target": "tests.system.simple_rewards:Naps",
        "rewards__naps__weight": 0.1,
        "rewards__naps__options": f"{{mark: {mark}, seconds: {NAP_S}}}",
        "rewards__naps__deadline_s": 60,
    }
    world.run(still, **settings)
    with ray_cluster(cpus=3, resources={"learner": 1, "generator": 1}, more=LINGER) as cluster:
        for _ in range(2):
            cluster.add_node({"scorer": 1}, cpus=1)
        with elastic_run(cluster, struck, world.arguments(struck, **settings)) as run:
            run.wait_until(lambda: len(run.rows()) >= 3, 200, "three steps")
            mark.touch()
            run.wait_until(lambda: not mark.exists(), 60, "a scorer to fall asleep")
            orphan, raylet = scorer_of(cluster)
            os.kill(raylet.pid, signal.SIGKILL)
            run.wait_for("lost with its node", 30)
            assert orphan.is_running()
            run.finish()
            rows = run.rows()
    assert rows[-1]["late_scorer"] == 1
    assert rows[-1]["handed_back_scorer"] == rows[-1]["restarts_scorer"] == 1
    check_trained_once(struck)
    assert_same_outcome(still, struck, STEPS)


def scorer_of(cluster: RayCluster) -> tuple[psutil.Process, psutil.Process]:
    """The scorer's process and its node's raylet."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::Scorer"):
            raylet = process.parent()
            if raylet is not None and str(cluster.folder) in " ".join(raylet.cmdline()):
                return process, raylet
    raise AssertionError("no scorer is there")
