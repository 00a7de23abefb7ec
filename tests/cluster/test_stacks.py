"""Stacks of another process, by a signal: while it waits, stopped, dead, and when its number is somebody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from cluster.stacks import Whereabouts, own_stacks, read_stacks
from configs.paths import PROJECT_ROOT

WAITS = """
import time
from cluster.stacks import listen

def wait_for_the_night_train():
    print(listen(), flush=True)
    time.sleep(600)

wait_for_the_night_train()
"""


@pytest.fixture
def stuck() -> Iterator[Whereabouts]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process:
        yield Whereabouts(process.pid, "here", int(process.stdout.readline()))
        process.kill()


def test_a_process_says_where_it_waits_each_time_it_is_asked(stuck: Whereabouts) -> None:
    for _ in range(2):
        text = read_stacks(stuck)
        assert text.count("in wait_for_the_night_train") == 1
    assert psutil.pid_exists(stuck.pid)


def test_a_stopped_process_is_told_from_a_busy_one_and_from_a_dead_one(stuck: Whereabouts) -> None:
    os.kill(stuck.pid, signal.SIGSTOP)
    assert "stopped" in read_stacks(stuck)
    os.kill(stuck.pid, signal.SIGKILL)
    psutil.Process(stuck.pid).wait(10)
    assert read_stacks(stuck) == "the process is gone"


def test_a_process_that_never_listened_is_left_alone(stuck: Whereabouts) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        assert read_stacks(replace(stuck, pid=other.pid, descriptor=1)) == "the process is gone"
        assert read_stacks(replace(stuck, pid=other.pid, descriptor=99))
        assert other.poll() is None  # the signal would have ended it
        other.kill()


def test_own_stacks_have_this_test() -> None:
    assert "test_own_stacks_have_this_test" in own_stacks()
