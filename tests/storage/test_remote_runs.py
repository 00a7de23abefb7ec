"""Whole runs on object storage, on a real S3 interface: killed, cut off, resumed elsewhere, equal to a local run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.working_copy import working_folder
from tests.storage.s3_server import S3Server, Seeded, deny_writes
from tests.system.tiny_world import (
    STEP_LIMIT_S,
    TinyWorld,
    assert_same_outcome,
    check_trained_once,
    metrics_of,
    open_main,
    run_main,
    wait_for_step,
)

pytestmark = pytest.mark.slow

STEPS = 8
URL = "s3://bucket/runs/one"
SETTINGS = {"learner__steps": STEPS, "evaluation__every": 4}


@pytest.fixture(scope="module")
def local(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on a local folder, in one go."""
    run_dir = tmp_path_factory.mktemp("local") / "whole"
    world.run(run_dir, **SETTINGS)
    return run_dir


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's copies: of no other test, and none at first."""
    monkeypatch.setenv("MUSICRL_CACHE", str(tmp_path / "machine"))
    return tmp_path / "machine"


def what_lies_there(server: S3Server, folder: Path, prefix: str = "runs/one/") -> Path:
    """The objects below a prefix as files."""
    for name, data in server.objects("bucket", prefix).items():
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def assert_equals_local(local: Path, server: S3Server, folder: Path) -> None:
    """Bit for bit, and the same files."""
    there = what_lies_there(server, folder)
    assert_same_outcome(local, there, STEPS)
    check_trained_once(there)
    ours, own = ({p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} for root in (there, local))
    assert ours - {".lease.json"} == own - {".lock", "replay/owner.json"}


def test_killed_and_resumed_on_another_machine_it_equals_the_local_run(
    world: TinyWorld, local: Path, server: S3Server, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = open_main(world.arguments(URL, **SETTINGS))
    wait_for_step(process, working_folder(URL, "run.dir"), 5)
    kill(process)
    monkeypatch.setenv("MUSICRL_CACHE", str(tmp_path / "other machine"))
    done = run_main([f"run.resume={URL}"])
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.rstrip().splitlines()[-1] == f"report: {URL}/report.html"
    assert_equals_local(local, server, tmp_path / "there")


def test_killed_twice_and_resumed_here_under_faults_it_equals_the_local_run(
    world: TinyWorld, local: Path, server: S3Server, machine: Path, tmp_path: Path
) -> None:
    """Every tenth request fails, some after they were done; the second kill comes while the first is being mended."""
    faults = Seeded(seed=7, share=0.1)
    with server.faults(faults):
        process = open_main(world.arguments(URL, **SETTINGS))
        wait_for_step(process, working_folder(URL, "run.dir"), 3)
        kill(process)
        process = open_main([f"run.resume={URL}"])
        wait_for_step(process, working_folder(URL, "run.dir"), 5)
        kill(process)
        done = run_main([f"run.resume={URL}"])
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert faults.failed > 5
    assert_equals_local(local, server, tmp_path / "there")


def test_the_server_gone_for_a_minute_costs_a_minute(
    world: TinyWorld, local: Path, server: S3Server, machine: Path, tmp_path: Path
) -> None:
    port = free_port()
    process = open_main(world.arguments(URL, **SETTINGS, metrics__port=port, pipeline__stall_s=30))
    wait_for_step(process, working_folder(URL, "run.dir"), 3)
    server.stop()
    gone_at = time.monotonic()
    seen = 0.0
    while time.monotonic() < gone_at + 60:
        assert process.poll() is None
        seen = max(seen, metric(port, "musicrl_storage_waiting"))
        time.sleep(2)
    assert metric(port, "musicrl_storage_pending_bytes") > 0
    server.start()
    out, err = process.communicate(timeout=STEP_LIMIT_S)
    assert process.returncode == 0, f"{out[-3000:]}\n{err[-3000:]}"
    assert seen > 40
    assert f"storage: {URL}: {server.url} cannot be reached" in out and "waiting, at most 30:00" in out
    assert f"storage: {URL} takes writes again after 1:" in out
    assert_equals_local(local, server, tmp_path / "there")


def test_a_store_that_stays_gone_ends_the_run_which_can_be_resumed(
    world: TinyWorld, local: Path, server: S3Server, machine: Path, tmp_path: Path
) -> None:
    process = open_main(world.arguments(URL, **SETTINGS, storage__deadline_s=6))
    wait_for_step(process, working_folder(URL, "run.dir"), 3)
    with server.faults(deny_writes):
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, f"{out[-3000:]}\n{err[-3000:]}"
    last = err.rstrip().splitlines()[-1]
    assert last.startswith(f"error: {URL} took no write for ") and "denies put_object (AccessDenied)" in last
    assert f"run.resume={URL}" in last
    done = run_main([f"run.resume={URL}"])
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert_equals_local(local, server, tmp_path / "there")


def test_of_two_writers_one_is_refused(world: TinyWorld, server: S3Server, machine: Path, tmp_path: Path) -> None:
    first = open_main(world.arguments(URL, learner__steps=1000))
    wait_for_step(first, working_folder(URL, "run.dir"), 3)
    for cache in ("machine", "other machine"):
        for words in ([f"run.resume={URL}"], world.arguments(URL)):
            second = run_main([*words, f"storage.cache={tmp_path / cache}"])
            assert second.returncode == 2 and first.poll() is None
            assert len(second.stderr.strip().splitlines()) == 1
            assert f"{URL!r} is in use" in second.stderr or f"{URL} is in use by process" in second.stderr
    kill(first)


def test_asynchronous_rows_are_trained_once_though_the_machine_is_lost(
    world: TinyWorld, server: S3Server, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"pipeline__mode": "async", "learner__steps": 20, "run__checkpoint_every": 4, "replay__segment_rows": 24}
    process = open_main(world.arguments(URL, **settings))
    wait_for_step(process, working_folder(URL, "run.dir"), 10)
    kill(process)
    monkeypatch.setenv("MUSICRL_CACHE", str(tmp_path / "other machine"))
    done = run_main([f"run.resume={URL}"])
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    there = what_lies_there(server, tmp_path / "there")
    assert [row["learner_step"] for row in metrics_of(there)] == list(range(1, 21))
    check_trained_once(there)


def metric(port: int, name: str) -> float:
    """A live value of the run; 0 before its exporter is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            found = re.search(rf"^{name}{{.*}} (\S+)$", page.read().decode(), re.M)
    except OSError:
        return 0.0
    return float(found[1]) if found else 0.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
