"""From new weights at the publisher to modules that compute with them, in other processes: every backend, in turns.

    python -m benchmarks.weight_bus [megabytes=50,300,1200] [receivers=1,2,4] [rounds=5] [policy=DIRECTORY]

A turn is timed from the call of `publish` until every receiver has the weights in its own torch module, checked. Beside
it stands the least that such a node has to do: memcpy once into shared memory, then once into each receiver's module,
all receivers at the same time, through the same calls of actors and unchecked. Ratios are taken turn by turn.

A run writes its versions in turns into the same few places of the object store: they are touched before, and some turns
are not timed, in which every process maps them. So it is for memcpy.

Memory is what a process holds for itself (anonymous pages) after some publications, beyond its own module or weights.

With `policy=` a whole `Generator.activate` (checked copy, the sampler's packing, the proof by probe) of that policy,
with the run's codec beside it (assets/tiny/codec).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch

from actors.published import PublishedWeights
from cluster.weight_bus import Publication, WeightBus
from cluster.weight_transports import InProcess, make_transport
from configs.command_line import exit_status_of, parse_settings
from configs.schema import WeightsConfig

TENSORS = 60
SPARE_BYTES = 256 * 2**20
WARM = 10  # turns until every process has seen each of the places that versions take in turns
BACKENDS = ("object_store", "collective")
# of the weights, beside two for each receiver, and the store's, touched before: publisher's, its broadcast's, memcpy's
COPIES = 3


@dataclass(frozen=True)
class Settings:
    megabytes: str = "50,300,1200"
    receivers: str = "1,2,4"
    rounds: int = 5
    policy: str = ""


class Receiver:
    """A process with a module of some size."""

    def __init__(self, megabytes: int) -> None:
        torch.set_num_threads(1)
        self._module = torch.nn.ParameterDict({name: torch.zeros(_size(megabytes)) for name in _names()})
        for parameter in self._module.values():
            parameter.data.fill_(1.0)  # its pages exist
        self._weights = PublishedWeights(self._module)

    def load(self, publication: Publication) -> None:
        self._weights.load(publication)

    def copy(self, weights: dict[str, np.ndarray]) -> None:
        """memcpy, and nothing else, of arrays in the object store."""
        own = self._module.state_dict()
        for name, array in weights.items():
            np.copyto(own[name].numpy(), array)

    def own_bytes(self) -> int:
        return _own_bytes()


def main(arguments: list[str]) -> None:
    settings = parse_settings(arguments, Settings())
    sizes, counts = (sorted(map(int, text.split(","))) for text in (settings.megabytes, settings.receivers))
    torch.set_num_threads(1)
    store_bytes = int(4.4 * max(sizes) * 2**20) + 2**27
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=store_bytes)
    _touch(int(0.9 * store_bytes))
    print(f"{os.cpu_count()} CPUs, {settings.rounds} turns; median (min .. max)\n")
    print("| weights | receivers | variant | publish ms | all active after ms | over memcpy | held beside, MB | load |")
    print("|---|---|---|---|---|---|---|---|")
    for megabytes in sizes:
        for count in counts:
            needed, free = (COPIES + 2 * count) * megabytes * 2**20, psutil.virtual_memory().available
            if needed > free:
                print(
                    f"| {megabytes} MB | {count} | left out: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free |"
                )
                continue
            _measure(megabytes, count, settings.rounds)
    ray.shutdown()
    if settings.policy:
        _activation(Path(settings.policy), settings.rounds)


def _touch(size: int) -> None:
    """Writes so many bytes of the object store, in one object that is let go at once."""
    held = ray.put(np.ones(size, np.uint8))
    del held
    time.sleep(1.0)  # until the store has heard of it


def _measure(megabytes: int, count: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(_size(megabytes), dtype=np.float32) for name in _names()}
    spare = np.ones(min(SPARE_BYTES, megabytes * 2**20), np.uint8)
    receivers: list[Any] = [ray.remote(num_cpus=0)(Receiver).remote(megabytes) for _ in range(count)]
    before = [_own_bytes(), *ray.get([receiver.own_bytes.remote() for receiver in receivers])]
    buses = {backend: WeightBus("benchmark", make_transport(WeightsConfig(backend))) for backend in BACKENDS}
    held: dict[str, str] = {"memcpy": ""}
    for backend, bus in buses.items():  # first touch, and what is held afterwards
        for version in range(WARM):
            _turn(bus, weights, version, receivers)
        now = [_own_bytes(), *ray.get([receiver.own_bytes.remote() for receiver in receivers])]
        grown = [(late - early) / 2**20 for late, early in zip(now, before, strict=True)]
        held[backend], before = f"publisher {grown[0]:.0f}, receiver {max(grown[1:]):.0f}", now
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    lying = ray.put(weights)  # what memcpy reads
    _least(weights, spare, lying, receivers)
    load = os.getloadavg()[0]
    for version in range(WARM, WARM + rounds):
        times["memcpy"].append(_least(weights, spare, lying, receivers))
        for backend, bus in buses.items():
            times[backend].append(_turn(bus, weights, version, receivers))
    for variant, pairs in times.items():
        ratios = [sum(pair) / sum(least) for pair, least in zip(pairs, times["memcpy"], strict=True)]
        ratio = (
            "" if variant == "memcpy" else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
        )
        first, whole = _spread([pair[0] for pair in pairs]), _spread([sum(pair) for pair in pairs])
        print(f"| {megabytes} MB | {count} | {variant} | {first} | {whole} | {ratio} | {held[variant]} | {load:.1f} |")
    sys.stdout.flush()
    for bus in buses.values():
        bus.close()
    for receiver in receivers:
        ray.kill(receiver)


def _turn(bus: WeightBus, weights: dict[str, np.ndarray], version: int, receivers: list[Any]) -> tuple[float, float]:
    """Seconds of `publish`, and from then until all have loaded."""
    begin = time.perf_counter()
    publication = bus.publish(weights, version)
    published = time.perf_counter()
    ray.get([receiver.load.remote(publication) for receiver in receivers])
    return published - begin, time.perf_counter() - published


def _least(weights: dict[str, np.ndarray], spare: np.ndarray, lying: Any, receivers: list[Any]) -> tuple[float, float]:
    """The same with memcpy: all weights through `spare`, whose pages exist, then from `lying` into each module."""
    begin, place = time.perf_counter(), 0
    for array in weights.values():
        place = place if place + array.nbytes <= spare.size else 0
        np.copyto(spare[place : place + array.nbytes], array.view(np.uint8))
        place += array.nbytes
    copied = time.perf_counter()
    ray.get([receiver.copy.remote(lying) for receiver in receivers])
    return copied - begin, time.perf_counter() - copied


def _activation(folder: Path, rounds: int) -> None:
    from actors.generator import Generator, probe_log_prob
    from cluster.weight_bus import Probe
    from policy.checkpoint import load_policy

    policy, codec = load_policy(folder), folder.parent / "codec"
    generator = Generator(str(folder), str(codec), (), "benchmark", 1)
    bus, times = WeightBus("benchmark", InProcess()), defaultdict(list)
    codes = np.zeros((2, len(policy.streams), 8), dtype=np.uint16)
    for version in range(rounds + 1):
        with torch.no_grad():
            next(policy.parameters()).add_(1e-3)
        probe = Probe(("", "slow piano"), codes, 0.0)
        probe = Probe(probe.prompts, codes, probe_log_prob(policy, probe))
        begin = time.perf_counter()
        publication = bus.publish({name: t.numpy() for name, t in policy.state_dict().items()}, version, probe)
        times["publish"].append(time.perf_counter() - begin)
        times["activate"].append(generator.activate(publication).seconds)
    megabytes = sum(bucket.nbytes for bucket in publication.ticket.flat) / 2**20
    print(f"\n| the default's policy, {megabytes:.1f} MB, in one process | ms |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {_spread(seconds[1:])} |")


def _names() -> list[str]:
    return [f"layer_{i}" for i in range(TENSORS)]


def _size(megabytes: int) -> int:
    """Elements of each tensor."""
    return megabytes * 2**20 // 4 // TENSORS


def _own_bytes() -> int:
    """Anonymous memory in use: pages of the object store, which all processes of a node share, do not count."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def _spread(seconds: list[float]) -> str:
    low, high, middle = min(seconds) * 1e3, max(seconds) * 1e3, statistics.median(seconds) * 1e3
    return f"{middle:.1f} ({low:.1f} .. {high:.1f})"


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
