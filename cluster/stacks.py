"""What the threads of a stuck process are doing, asked from outside.

A process that has introduced itself writes the stacks of all its Python threads into a file of its memory whenever
SIGUSR1 reaches it. faulthandler does that in C: it needs neither the interpreter's lock nor the rights of a debugger,
which a container seldom grants. A process that cannot even take a signal (stopped, or waiting inside the kernel) is
described by what the kernel says of it.

    driver ── describe(where) ──▶ here, or a task on the node of the process ── SIGUSR1 ──▶ the process
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAME = "musicrl-stacks"
ANSWER_S = 2.0  # for the process to write
REMOTE_ANSWER_S = 30.0  # for another node to start a process for the question, and to answer
QUIET_S = 0.1  # without another byte: it has written all
STATES = {
    "T": "stopped (SIGSTOP, or a debugger)",
    "t": "stopped by a debugger",
    "D": "waiting inside the kernel, for a disk or a network file system",
    "Z": "dead, and not yet cleared away",
}
_file: IO[bytes] | None = None


@dataclass(frozen=True)
class Whereabouts:
    """Where a process is, and the descriptor into which it writes its stacks (-1: it cannot, not on Linux)."""

    pid: int
    node_id: str
    descriptor: int

    def __str__(self) -> str:
        return f"pid {self.pid} on node {self.node_id[:8]}"


def introduce(_: object = None) -> Whereabouts:
    """Makes this process answer SIGUSR1, once -> where it is. An actor is asked through its `__ray_call__`."""
    return Whereabouts(os.getpid(), ray.get_runtime_context().get_node_id(), listen())


def listen() -> int:
    """-> the descriptor of a file in memory into which SIGUSR1 writes this process's stacks; -1 where there is none."""
    global _file
    if not hasattr(os, "memfd_create"):
        return -1
    if _file is None:
        _file = os.fdopen(os.memfd_create(NAME), "wb", buffering=0)
        faulthandler.register(signal.SIGUSR1, file=_file, all_threads=True)
    return _file.fileno()


async def describe(where: Whereabouts) -> str:
    """Stacks of a process on any node, or why there are none. Never raises, and answers within seconds."""
    if where.node_id == ray.get_runtime_context().get_node_id():
        return await asyncio.to_thread(read_stacks, where)
    place = NodeAffinitySchedulingStrategy(where.node_id, soft=False)
    task: Any = ray.remote(read_stacks)
    asked = task.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(where)
    try:
        return str(await asyncio.wait_for(asked, REMOTE_ANSWER_S))
    except TimeoutError:
        ray.cancel(asked, force=True)
        return f"its node gave no answer within {REMOTE_ANSWER_S:g} s"
    except RayError as error:
        return f"its node cannot be asked: {type(error).__name__}"


def read_stacks(where: Whereabouts) -> str:
    """Stacks of a process of this machine, or the kernel's word on it."""
    path = Path(f"/proc/{where.pid}/fd/{where.descriptor}")
    try:
        if NAME not in os.readlink(path):  # the number belongs to another process by now
            return "the process is gone"
        with open(path, "rb") as file:
            start = file.seek(0, os.SEEK_END)
            os.kill(where.pid, signal.SIGUSR1)
            text = _written_since(file, start)
    except OSError:
        return "the process is gone" if not Path(f"/proc/{where.pid}").exists() else _state(where.pid)
    return text or _state(where.pid)


def own_stacks() -> str:
    """Stacks of all threads of this process."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return _tidy(file.read())


def _written_since(file: IO[bytes], start: int) -> str:
    """What is written from byte `start` on, until nothing more comes."""
    give_up, size, grew_at = time.monotonic() + ANSWER_S, start, time.monotonic()
    while (now := time.monotonic()) < give_up and (size == start or now - grew_at < QUIET_S):
        time.sleep(0.02)
        newest = file.seek(0, os.SEEK_END)
        if newest > size:
            size, grew_at = newest, now
    file.seek(start)
    return _tidy(file.read())


def _tidy(text: bytes) -> str:
    return text.decode(errors="replace").strip()


def _state(pid: int) -> str:
    """What the kernel says of a process that does not answer."""
    try:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        channel = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return "the process is gone"
    state = status.get("State", "?")
    meaning = STATES.get(state[:1], f"state {state}")
    return f"no answer to a signal: {meaning}" + (f", in {channel}" if channel not in ("", "0") else "")
