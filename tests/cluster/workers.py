"""Actors that misbehave on request; in a module of their own, which Ray's workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray

from cluster.errors import PeerMissing, UserError


class Worker:
    """Remembers what it was prepared with, and misbehaves on request."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.weights = 0

    def prepare(self, weights: int) -> None:
        self.weights = weights

    def weights_in_use(self) -> int:
        return self.weights

    def pid(self) -> int:
        return os.getpid()

    def fail(self, counter: str) -> None:
        with open(counter, "a") as file:
            file.write("x")
        raise UserError("codes: got nothing")

    def die_once(self, mark: str) -> str:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    def hang_once(self, mark: str) -> str:
        if not Path(mark).exists():
            Path(mark).touch()
            time.sleep(600)
        return "awake"

    def nap(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def nap_once(self, mark: str, seconds: float) -> int:
        """Whoever does it again is at once done."""
        if not Path(mark).exists():
            Path(mark).touch()
            time.sleep(seconds)
        return os.getpid()

    def hang(self) -> None:
        time.sleep(600)

    @ray.method(num_returns=2)
    def small_and_large(self) -> tuple[int, bytes]:
        return 7, b"x" * 10


class Unbuildable:
    def __init__(self) -> None:
        raise UserError("codec: got nothing")


class Peer:
    """One of a group. `who` misbehaves; the others say that they missed it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._total = 0

    def add(self, numbers: Any) -> tuple[int, int]:
        self._total += int(numbers.sum())
        time.sleep(0.2 * self.index)
        return self.index, self._total

    def total(self) -> int:
        return self._total

    def die(self, who: int) -> None:
        if who == self.index:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        raise PeerMissing(f"learner: worker {self.index} of 2 lost its connection to the others")

    def hang(self, who: int) -> None:
        if who in (self.index, -1):
            time.sleep(600)
        raise PeerMissing(f"learner: worker {self.index} of 2 waited 1 s for the others in vain")

    def fail(self, who: int) -> None:
        if who == self.index:
            time.sleep(0.3)
            raise UserError("codes: got nothing")
        raise PeerMissing("learner: worker 0 of 2 waited 1 s for the others in vain")
