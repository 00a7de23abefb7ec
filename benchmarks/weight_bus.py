"""From new weights at the learner to a generator that samples with them: publish, receive, activate.

    python -m benchmarks.weight_bus [megabytes=10,100,400] [rounds=7] [policy=DIRECTORY]

Publish and receive are timed through Ray's object store into another process, beside the two things one would write
first: passing the dict of numpy arrays, and passing a dict of torch tensors. The bus checks what it received, so it has
read every page; numpy's views have not been touched yet when they are timed. Activate is a whole `Generator.activate`
(checksum, copy, the sampler's packing, the proof by probe) of a policy of the shipped size; only with `policy=`, and
with the run's codec beside it (assets/tiny/codec). Variants take turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from cluster.weight_bus import InProcess, WeightBus, receive

TENSORS = 60


def main(arguments: list[str]) -> None:
    options = {"megabytes": "10,100,400", "rounds": "7", "policy": ""} | dict(a.split("=", 1) for a in arguments)
    rounds = int(options["rounds"])
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2 * 2**30)
    reader: Any = ray.remote(num_cpus=0)(_reader_class()).remote()
    ray.get(reader.ready.remote())
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {rounds} rounds; median (min .. max) ms\n")
    print("| weights | variant | send | until usable in another process |\n|---|---|---|---|")
    for megabytes in map(int, options["megabytes"].split(",")):
        for variant, (send, take) in _measure(reader, megabytes, rounds).items():
            print(f"| {megabytes} MB | {variant} | {_spread(send)} | {_spread(take)} |")
    ray.shutdown()
    if options["policy"]:
        _activation(Path(options["policy"]), rounds)


def _measure(reader: Any, megabytes: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    rng = np.random.default_rng(0)
    size = megabytes * 2**20 // 4 // TENSORS
    weights = {f"layer_{i}": rng.standard_normal(size, dtype=np.float32) for i in range(TENSORS)}
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    bus = WeightBus("benchmark")
    sends: dict[str, tuple[Callable[[int], Any], Any]] = {
        "weight bus": (lambda version: bus.publish(weights, version), reader.take_publication),
        "dict of numpy": (lambda version: [ray.put(weights)], reader.take_dict),
        "dict of torch": (lambda version: [ray.put(tensors)], reader.take_dict),
    }
    times: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for turn in range(rounds + 1):
        for name, (send, take) in sends.items():
            begin = time.perf_counter()
            sent = send(turn)
            sent_s, took_s = time.perf_counter() - begin, ray.get(take.remote(sent))
            if turn:  # the first one warms up
                times[name][0].append(sent_s)
                times[name][1].append(took_s)
    return times


def _reader_class() -> type:
    class Reader:
        """The other process: returns the seconds that it took until every tensor was at hand."""

        def ready(self) -> bool:
            return True

        def take_publication(self, publication: Any) -> float:
            begin = time.perf_counter()
            receive(publication)
            return time.perf_counter() - begin

        def take_dict(self, references: list[Any]) -> float:
            begin = time.perf_counter()
            ray.get(references)
            return time.perf_counter() - begin

    return Reader


def _activation(folder: Path, rounds: int) -> None:
    from actors.generator import Generator, probe_log_prob
    from cluster.weight_bus import Probe
    from policy.checkpoint import load_policy

    policy, codec = load_policy(folder), folder.parent / "codec"
    generator = Generator(str(folder), str(codec), (), "benchmark", 1, transport=InProcess())
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
    megabytes = sum(bucket.nbytes for bucket in publication.handles) / 2**20
    print(f"\n| the default's policy, {megabytes:.1f} MB, in one process | ms |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {_spread(seconds[1:])} |")


def _spread(seconds: list[float]) -> str:
    low, high, middle = min(seconds) * 1e3, max(seconds) * 1e3, statistics.median(seconds) * 1e3
    return f"{middle:.1f} ({low:.1f} .. {high:.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
