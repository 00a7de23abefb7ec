"""From parameters, machines and prices to the service times of a fleet, and from those, simulated, to its throughput,
staleness, weight traffic and cost.

    python -m learner.simulated_fleet [parameters=0.3,1.5,3.3] [generators=1,8,512] [key=value ...]

Everything that is multiplied here is a setting: the three sizes of MusicGen, data-sheet numbers of a machine with the
share of them that is reached in practice, prices. Set your own.

One task of R rows, T frames on one GPU reads, at each of its T steps, the weights once and the keys and values of each
row so far:

    step_s   = max((2 P + R * kv_bytes * T / 2) / (bandwidth * reached), launch_s)       kv_bytes = 4 * layers * width
    sample_s = T * step_s + R * decode_s

One learner step on B rows of T frames does, in floating-point operations, 6 P a frame for the policy's forward and
backward pass, 6 P for the value network's and 2 P for the reference's forward pass:

    learn_s  = 14 P * T * B / (learners * flops * reached_flops)

A publication is 2 P bytes. The publisher of a broadcast sends it ceil(log2(N + 1)) times to N nodes, a publisher that
everybody asks would send it N times; within a node all generators read one copy.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from configs.command_line import exit_status_of, parse_settings
from learner.simulated_pipeline import Outcome, ServiceTimes, Shape, simulate


@dataclass(frozen=True)
class Settings:
    parameters: str = "0.3,1.5,3.3"  # billions, of SIZES
    generators: str = "1,8,512"
    clip_s: float = 30.0
    frame_rate_hz: float = 50.0
    task_rows: int = 16
    max_staleness: int = 2
    batch_share: float = 1.0  # of all rows that are under way at a time
    steps: int = 12
    # a generator: one NVIDIA L40S (data sheet: 864 GB/s, 48 GB)
    generator_bandwidth: float = 864e9  # bytes/s
    generator_reached: float = 0.6
    generators_a_node: int = 1
    launch_s: float = 0.002  # least time of one decoding step, layers times kernel launches
    decode_s: float = 0.05  # codec, of one clip
    score_s: float = 0.05  # all rewards, of one clip
    lost_share: float = 0.05  # of the generators' work that pre-emption takes
    # a learner: NVIDIA H100 SXM (data sheet: 989e12 bfloat16 flop/s dense, 80 GB)
    learner_flops: float = 989e12
    learner_reached: float = 0.35
    learner_memory: float = 80e9
    network: float = 3.1e9  # bytes/s of a node: 25 Gbit/s
    bus: float = 16e9  # bytes/s between a GPU and its host
    replay_s: float = 0.005  # one call of the replay store, from benchmarks.scaling
    generator_usd: float = 0.94  # an hour, L40S spot
    scorer_usd: float = 0.94
    learner_usd: float = 2.69  # an hour, H100 SXM
    head_usd: float = 0.5  # an hour, the node of controller and replay store


@dataclass(frozen=True)
class Size:
    """A decoder-only transformer. Source: MusicGen (arXiv 2306.05284), appendix A.2."""

    parameters: float
    layers: int
    width: int

    @property
    def kv_bytes(self) -> int:
        """Of one frame of one row, in 16 bits."""
        return 4 * self.layers * self.width


SIZES = {"0.3": Size(0.3e9, 24, 1024), "1.5": Size(1.5e9, 48, 1536), "3.3": Size(3.3e9, 48, 2048)}
TRAINING_BYTES = 34  # a parameter: policy and value network with 32-bit copy and Adam's moments, and the reference
MOST_LEARNERS = 64


@dataclass(frozen=True)
class Fleet:
    """A size of model on a number of generators, with as much of the rest as does not hold them up."""

    size: Size
    shape: Shape
    learners: int
    times: ServiceTimes
    serial_s: float  # the learner's network, for one publication that every node fetches from it
    broadcast_s: float  # the same by broadcast

    def usd_per_million_clips(self, settings: Settings, outcome: Outcome) -> float:
        hourly = (
            self.shape.generators * settings.generator_usd
            + self.shape.scorers * settings.scorer_usd
            + self.learners * settings.learner_usd
            + settings.head_usd
        )
        return hourly / 3600 / outcome.rows_per_s * 1e6


def fleet_of(settings: Settings, size: Size, generators: int) -> Fleet:
    """Sizes batch, scorers and learners so that the generators set the pace, where they can."""
    frames, rows = settings.clip_s * settings.frame_rate_hz, settings.task_rows
    read = 2 * size.parameters + rows * size.kv_bytes * frames / 2
    step_s = max(read / (settings.generator_bandwidth * settings.generator_reached), settings.launch_s)
    sample_s = (frames * step_s + rows * settings.decode_s) / (1 - settings.lost_share)
    task_score_s = rows * settings.score_s
    # All that is under way must fit into S + 1 batches, with one more that is being learnt, or generators stand still.
    under_way = generators * (1 + task_score_s / sample_s)
    batch = rows * max(4, math.ceil(settings.batch_share * under_way))
    batch_s = batch / rows / generators * sample_s
    work_s = 14 * size.parameters * frames * batch / (settings.learner_flops * settings.learner_reached)
    least = math.ceil(TRAINING_BYTES * size.parameters / settings.learner_memory)
    learners = min(MOST_LEARNERS, max(least, math.ceil(work_s / (0.8 * batch_s))))
    nodes, copy_s = math.ceil(generators / settings.generators_a_node), 2 * size.parameters / settings.network
    broadcast_s = math.ceil(math.log2(nodes + 1)) * copy_s
    replay = settings.replay_s
    load_s = 2 * size.parameters / settings.bus
    times = ServiceTimes(
        sample=sample_s,
        activate=load_s,
        score=task_score_s,
        insert=replay,
        take=replay,
        commit=replay,
        stats=replay,
        learn=work_s / learners,
        publish=load_s,
        travel=broadcast_s,
    )
    scorers = math.ceil(generators * task_score_s / sample_s / 0.8)
    shape = Shape(generators, scorers, batch, rows, settings.max_staleness, settings.steps)
    return Fleet(size, shape, learners, times, nodes * copy_s, broadcast_s)


def print_tables(settings: Settings | None = None) -> None:
    """One row a fleet; asynchronous beside synchronous."""
    settings = settings or Settings()
    print(
        "| parameters | generators | scorers | learner GPUs | batch | clips/s, sync | clips/s, async | generators busy "
        "| staleness | publication | by broadcast | one by one | USD a million clips |\n" + "|---" * 13 + "|"
    )
    for billions in settings.parameters.split(","):
        for generators in map(int, settings.generators.split(",")):
            fleet = fleet_of(settings, SIZES[billions], generators)
            taken_in_turns = simulate(replace(fleet.shape, max_staleness=0), fleet.times)
            beside = simulate(fleet.shape, fleet.times)
            print(
                f"| {billions} B | {generators} | {fleet.shape.scorers} | {fleet.learners} | {fleet.shape.batch_rows} "
                f"| {taken_in_turns.rows_per_s:.2f} | {beside.rows_per_s:.2f} | {beside.generators_busy:.0%} "
                f"| {beside.staleness:.2f} | {2 * fleet.size.parameters / 1e9:.1f} GB | {fleet.broadcast_s:.1f} s "
                f"| {fleet.serial_s:.0f} s | {fleet.usd_per_million_clips(settings, beside):,.0f} |",
                flush=True,
            )


def main(arguments: list[str]) -> None:
    if any(word in ("-h", "--help", "help") for word in arguments):
        print(__doc__)
        return
    print_tables(parse_settings(arguments, Settings()))


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
