"""Whole runs on object storage, on a real S3 interface: killed, cut off, resumed elsewhere, equal to a local run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.working_copy import working_folder
from tests.storage.s3_server import S3Server
from tests.system.tiny_world import (
    TinyWorld,
    assert_same_outcome,
    check_trained_once,
    open_main,
    run_main,
    wait_for_step,
)

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
    there = what_lies_there(server, tmp_path / "there")
    assert_same_outcome(local, there, STEPS)
    check_trained_once(there)
    names = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    ours = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert ours - {".lease.json"} == names - {".lock", "replay/owner.json"}
