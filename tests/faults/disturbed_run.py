"""A run in a process of its own, that things happen to: its words with the time of each, its processes by role."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from tests.faults.schedule import Fault
from tests.system.tiny_world import ROOT, steps_done

TITLES = {
    "generator": "ray::GeneratorActor",
    "scorer": "ray::Scorer",
    "replay": "ray::ReplayStore",
    "learner": "ray::LearnerActor",
    "evaluator": "ray::Evaluator",
    "node": "raylet",
    "gcs": "gcs_server",
}
GCS_MISSED_S = 80.0  # Ray's own processes give up after 60 s without their head service
SLOW_STOPPED_S, SLOW_RUNNING_S = 0.05, 0.01


class Hangs(AssertionError):
    """Something took longer than its deadline."""


class DisturbedRun:
    """`python -m tests.faults.audited_main` as the leader of a process group of its own.

    roots: driver -> processes below which the actors are.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        run_dir: Path,
        journal: Path,
        environment: Mapping[str, str] | None = None,
        roots: Callable[[int], list[int]] = lambda driver: [driver],
    ) -> None:
        own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.audited_main", str(journal), *arguments],
            cwd=ROOT,
            env=own | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._roots = roots
        self.lines: list[tuple[float, str]] = []  # of both streams: (monotonic, line)
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> DisturbedRun:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    # ---- waiting --------------------------------------------------------------------------------------------------

    def wait_for_step(self, step: int, limit_s: float) -> float:
        """-> when that many steps were seen to be done. Raises Hangs; AssertionError where the run ends before."""
        until = time.monotonic() + limit_s
        while steps_done(self.run_dir) < step:
            assert self.process.poll() is None, f"ended with {self.process.returncode} before step {step}\n{self.tail}"
            if time.monotonic() > until:
                raise Hangs(f"step {step} was not reached within {limit_s:g} s\n{self.tail}")
            time.sleep(0.02)
        return time.monotonic()

    def wait_for_end(self, limit_s: float) -> int:
        """-> exit status. Raises Hangs."""
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Hangs(f"did not end within {limit_s:g} s\n{self.tail}") from None
        for reader in self._readers:
            reader.join(10.0)
        return status

    def heard(self, words: str, since: float) -> float | None:
        """When a line with these words came, from `since` on; None: not yet."""
        return next((at for at, line in self.lines if at >= since and words in line), None)

    @property
    def tail(self) -> str:
        return "\n".join(line for _, line in self.lines[-60:])

    @property
    def last_line(self) -> str:
        return self.lines[-1][1] if self.lines else ""

    # ---- harm -----------------------------------------------------------------------------------------------------

    def pids(self, role: str) -> list[int]:
        """Processes of a role, oldest first."""
        if role == "driver":
            return [self.process.pid]
        roots = [psutil.Process(pid) for pid in self._roots(self.process.pid) if psutil.pid_exists(pid)]
        below = [child for root in roots for child in root.children(recursive=True)]
        return [child.pid for child in below if _title(child).split("/")[-1].startswith(TITLES[role])]

    def strike(self, fault: Fault) -> list[int]:
        """Does the harm; returns when it is done -> the processes that were hit."""
        hit = []
        for role in fault.role.split("+"):
            pids = self.pids(role)
            if pids:
                hit.append(pids[int(fault.chance * len(pids))])
        if fault.kind == "kill":
            for pid, role in zip(hit, fault.role.split("+"), strict=False):
                self._kill(pid, whole_group=role == "driver")
            if fault.role == "gcs":  # actors talk to each other without it: a short run would be over before Ray ends
                with self.held("learner"), suppress(subprocess.TimeoutExpired):
                    self.process.wait(GCS_MISSED_S)
        elif fault.kind == "hang":
            _send(hit, signal.SIGSTOP)
        elif fault.kind == "pause":
            _send(hit, signal.SIGSTOP)
            time.sleep(fault.lasts_s)
            _send(hit, signal.SIGCONT)
        elif fault.kind == "slow":
            until = time.monotonic() + fault.lasts_s
            while time.monotonic() < until:
                _send(hit, signal.SIGSTOP)
                time.sleep(SLOW_STOPPED_S)
                _send(hit, signal.SIGCONT)
                time.sleep(SLOW_RUNNING_S)
        return hit

    @contextmanager
    def held(self, role: str) -> Iterator[None]:
        """No step is finished meanwhile."""
        pids = self.pids(role)
        _send(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _send(pids, signal.SIGCONT)

    def kill(self) -> None:
        """Ends whatever is left of it."""
        try:
            left = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            left = []
        self._kill(self.process.pid, whole_group=True)
        for child in left:
            _send([child.pid], signal.SIGKILL)
        self.process.wait(30)

    def _kill(self, pid: int, whole_group: bool) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(pid, signal.SIGKILL)

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append((time.monotonic(), line.rstrip("\n")))


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0].strip()
    except psutil.Error:
        return ""
