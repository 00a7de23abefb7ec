"""The listening app in a process of its own, for the benchmarks that speak to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

OPEN = "1000000/minute"
NO_LIMITS = [f"limits.{name}={OPEN}" for name in ("votes", "prompts", "requests", "listeners")]


@contextmanager
def listening_app(port: int, words: Sequence[str]) -> Iterator[psutil.Process]:
    """The app, ready, its log in a folder that vanishes with it. Raises RuntimeError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="listening") as folder:
        command = [sys.executable, "-m", "feedback.main", f"port={port}", f"log.dir={folder}/log", *words]
        app = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            _await_page(app)
            yield psutil.Process(app.pid)
        finally:
            app.terminate()
            app.wait(timeout=60)


def cpu_seconds(app: psutil.Process) -> float:
    """What the app and all of its processes have used so far."""
    total = 0.0
    for process in (app, *app.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _await_page(app: subprocess.Popen[str]) -> None:
    assert app.stdout is not None
    for line in app.stdout:
        if line.startswith("ready"):
            return
    raise RuntimeError("the app did not start")
