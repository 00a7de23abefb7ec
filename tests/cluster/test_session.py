"""Ray that does not come up: tried again without the leftovers of the last attempt, and one line in the end."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import psutil
import pytest

from cluster import session
from cluster.errors import RunFailed


class LateRay:
    """A start that leaves a daemon behind and raises, `failures` times."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.daemons: list[subprocess.Popen[bytes]] = []

    def init(self) -> None:
        self.daemons.append(subprocess.Popen(["sleep", "600"]))
        if self.left:
            self.left -= 1
            raise Exception("The current node timed out during startup.\n  This could happen …")


def test_a_late_start_is_tried_again_and_its_daemons_are_ended() -> None:
    beside = subprocess.Popen(["sleep", "600"])
    ray = LateRay(failures=2)
    try:
        session._start(ray.init)
        *failed, good = ray.daemons
        assert len(failed) == 2 and not any(psutil.pid_exists(daemon.pid) for daemon in failed)
        assert good.poll() is None and beside.poll() is None
    finally:
        for process in (beside, *ray.daemons):
            process.kill()
            process.wait()


def test_a_start_that_never_succeeds_ends_in_one_line() -> None:
    ray = LateRay(failures=99)
    with pytest.raises(RunFailed) as caught:
        session._start(ray.init)
    assert len(ray.daemons) == session.START_ATTEMPTS
    line = str(caught.value)
    assert line.startswith("ray: did not start in 3 attempts (load ") and "timed out during startup" in line
    assert "\n" not in line
    for daemon in ray.daemons:
        daemon.wait(5)


@pytest.mark.slow
def test_ray_itself_late_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own deadline passes, with all of its daemons up: the second attempt has a machine without them."""
    from ray._private import node, services

    get_node, monotonic, asked = services.get_node, time.monotonic, []

    def late(*arguments: Any) -> Any:
        asked.append(monotonic())
        if len(asked) == 1:
            monkeypatch.setattr(node.time, "monotonic", lambda: monotonic() + 60.0)
            raise RuntimeError("not registered yet")
        monkeypatch.setattr(node.time, "monotonic", monotonic)
        return get_node(*arguments)

    monkeypatch.setattr(services, "get_node", late)
    with session.ray_session() as local:
        import ray

        assert local and ray.cluster_resources()["CPU"] >= 1
        raylets = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
        assert len(asked) >= 2 and len(raylets) == 1
