"""Broadcasts between processes: members that come late, die or freeze, and a publisher that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.errors import RunFailed
from cluster.weight_broadcast import Collective
from cluster.weight_bus import Publication, Superseded, WeightBus, receive_into
from cluster.weight_member import BroadcastTicket

BROADCAST_S = 3.0
LIMIT_S = 60.0
SIZE = 2**20


def weights(version: int) -> dict[str, np.ndarray]:
    return {"a": np.full(SIZE, version, np.float32), "b": np.arange(8, dtype=np.int64) + version}


def reader(pipe: Connection) -> None:
    """A process that fetches each publication it is sent, and answers with what it holds then."""
    own = {name: np.zeros_like(array) for name, array in weights(0).items()}
    while True:
        publication = pipe.recv()
        try:
            receive_into(publication, own, LIMIT_S)
            pipe.send((float(own["a"][-1]), int(own["b"][0])))
        except Exception as error:
            pipe.send(error)


@dataclass
class Reader:
    """One such process."""

    process: Any
    pipe: Connection

    def ask(self, publication: Publication) -> None:
        self.pipe.send(publication)

    def answer(self) -> Any:
        assert self.pipe.poll(LIMIT_S), "no answer"
        return self.pipe.recv()

    def fetch(self, publication: Publication) -> Any:
        self.ask(publication)
        return self.answer()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)


@dataclass
class Bench:
    """A publisher in this process and its readers."""

    bus: WeightBus
    readers: list[Reader] = field(default_factory=list)

    def start(self, count: int) -> list[Reader]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.cluster.test_weight_broadcast"])
        for _ in range(count):
            own, theirs = context.Pipe()
            process = context.Process(target=reader, args=(theirs,), daemon=True)
            process.start()
            self.readers.append(Reader(process, own))
        return self.readers[-count:]

    def publish(self, version: int) -> Publication:
        return self.bus.publish(weights(version), version)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(WeightBus("run-a", Collective("127.0.0.1", BROADCAST_S)))
    yield made
    made.bus.close()
    for reader in made.readers:
        reader.process.kill()
        reader.process.join()


def test_members_may_come_at_any_time_and_all_get_the_newest(bench: Bench) -> None:
    early = bench.start(2)
    first = bench.publish(1)
    for one in early:
        one.ask(first)
    assert [one.answer() for one in early] == [(1.0, 1)] * 2
    (late,) = bench.start(1)
    assert late.fetch(first) == (1.0, 1)
    second = bench.publish(2)
    assert [one.fetch(second) for one in (*early, late)] == [(2.0, 2)] * 3


def test_a_member_that_dies_is_left_out_and_the_others_go_on(bench: Bench) -> None:
    stay, leave, also = bench.start(3)
    first = bench.publish(1)
    for one in (stay, leave, also):
        one.ask(first)
    assert [one.answer() for one in (stay, leave, also)] == [(1.0, 1)] * 3
    leave.signal(signal.SIGKILL)
    begun = time.monotonic()
    second = bench.publish(2)
    assert stay.fetch(second) == also.fetch(second) == (2.0, 2)
    assert time.monotonic() - begun < LIMIT_S / 2
    (instead,) = bench.start(1)
    third = bench.publish(3)
    assert [one.fetch(third) for one in (stay, also, instead)] == [(3.0, 3)] * 3


def test_a_member_that_freezes_is_left_out_and_comes_back(bench: Bench) -> None:
    stay, freeze = bench.start(2)
    first = bench.publish(1)
    assert stay.fetch(first) == freeze.fetch(first) == (1.0, 1)
    freeze.signal(signal.SIGSTOP)
    second = bench.publish(2)
    assert stay.fetch(second) == (2.0, 2)
    third = bench.publish(3)
    freeze.signal(signal.SIGCONT)
    assert stay.fetch(third) == freeze.fetch(third) == (3.0, 3)


def test_weights_arrive_while_the_reader_is_busy_and_old_ones_are_superseded(bench: Bench) -> None:
    (one,) = bench.start(1)
    first = bench.publish(1)
    assert one.fetch(first) == (1.0, 1)
    second, third = bench.publish(2), bench.publish(3)
    assert one.fetch(third) == (3.0, 3)
    assert isinstance(one.fetch(second), Superseded)
    assert one.fetch(third) == (3.0, 3)


def test_a_base_is_sent_again_to_whoever_needs_it(bench: Bench) -> None:
    early, late = bench.start(2)
    base = bench.publish(1)
    assert early.fetch(base) == (1.0, 1)
    for version in (2, 3):
        part = bench.bus.publish({"b": weights(version)["b"]}, version, base=base)
        assert early.fetch(part) == (1.0, version)
    assert late.fetch(base) == (1.0, 1)
    assert late.fetch(part) == (1.0, 3)
    assert early.fetch(base) == (1.0, 1)


def test_each_side_holds_one_version(bench: Bench) -> None:
    (one,) = bench.start(1)
    one.fetch(bench.publish(0))
    sides = [psutil.Process(), psutil.Process(one.process.pid)]
    before = [side.memory_info().rss for side in sides]
    for version in range(1, 12):
        assert one.fetch(bench.publish(version)) == (version, version)
    grown = [side.memory_info().rss - rss for side, rss in zip(sides, before, strict=True)]
    assert max(grown) < SIZE * 4 * 2  # of 11 publications of 4 MB


def test_a_reader_ends_with_one_line_when_the_publisher_is_gone(bench: Bench) -> None:
    (one,) = bench.start(1)
    first = bench.publish(1)
    assert one.fetch(first) == (1.0, 1)
    one.ask(Publication(2, "run-a", first.spec, BroadcastTicket(first.ticket.address, 9, 1.0), first.digests, ""))
    threading.Timer(0.5, bench.bus.close).start()
    answer = one.answer()
    assert isinstance(answer, RunFailed) and "the publisher has ended" in str(answer)
