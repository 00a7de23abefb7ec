"""What sharing a learner step costs and saves: one worker, two with whole networks, two with parts, on one machine.

    python -m benchmarks.learner_workers [batch=32] [micro=16] [frames=50] [rounds=5]

Two processes of one thread each keep a learner of every kind, all on the shipped policy, and make steps in turns, so
that a busy moment of the machine hits all kinds; while the first works alone the second waits. On two cores with gloo,
whose reduce-scatter is an all-reduce, wall clock says what sharing costs, not what GPUs would gain. Bytes are counted,
not sampled: those that a worker holds of weights and Adam's moments, and those that autograd keeps for the policy's
backward pass over one micro-batch. The importance weight of the first step, on clips that this policy sampled, says how
far the learner's log-probabilities are from the sampler's: 1 where they are the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from actors.records import TrainingBatch
from configs.paths import PROJECT_ROOT
from configs.prompts import load_prompts
from configs.schema import LearnerConfig
from learner.learner import Learner
from learner.meeting import MeetingPoint, Place
from learner.ranks import own_part
from learner.sharding import DistributedRanks, join
from policy.checkpoint import load_policy
from policy.log_probs import log_distribution
from policy.port import SamplingSettings
from policy.sampler import Sampler

KINDS: dict[str, tuple[int, dict[str, Any]]] = {  # workers, settings
    "one worker": (1, {}),
    "one worker, recomputed": (1, {"activation_checkpointing": True}),
    "two, data": (2, {"parallel": "data"}),
    "two, sharded": (2, {"parallel": "sharded"}),
    "two, sharded, recomputed": (2, {"parallel": "sharded", "activation_checkpointing": True}),
    "two, sharded, bfloat16": (2, {"parallel": "sharded", "precision": "bfloat16"}),
}
ASSETS = PROJECT_ROOT / "assets/tiny"
POLICY = ASSETS / "policy"
SAMPLING = SamplingSettings()
DEFAULTS = {"batch": 32, "micro": 16, "frames": 50, "rounds": 5}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["worker"]:
        work(Place(int(arguments[1]), 2, int(arguments[2])), _options(arguments[3:]))
        return 0
    meeting = MeetingPoint()
    words = [sys.executable, "-m", "benchmarks.learner_workers", "worker"]
    second = subprocess.Popen([*words, "1", str(meeting.port), *arguments])
    try:
        return subprocess.run([*words, "0", str(meeting.port), *arguments]).returncode
    finally:
        second.kill()


def work(place: Place, options: dict[str, int]) -> None:
    """One of the two processes; the first prints."""
    torch.set_num_threads(1)
    settings = LearnerConfig(micro_batch_size=options["micro"], collective_timeout_s=600.0)
    join(settings, place, start_s=120.0)
    learners = {name: _learner(replace(settings, **changes), workers) for name, (workers, changes) in KINDS.items()}
    batch = _batch(options["batch"], options["frames"])
    kept = {name: _kept(learner, batch) if _works(name, place) else 0 for name, learner in learners.items()}
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    first: dict[str, dict[str, float]] = {}
    load = os.getloadavg()[0]
    for _ in range(options["rounds"]):
        for name, learner in learners.items():
            dist.barrier()
            begin, cpu = time.perf_counter(), time.process_time()
            if _works(name, place):
                metrics = learner.step(batch)
                first.setdefault(name, metrics)
            spent = torch.tensor(time.process_time() - cpu if _works(name, place) else 0.0, dtype=torch.float64)
            wall = time.perf_counter() - begin
            dist.all_reduce(spent)
            seconds[name].append((wall, spent.item()))
    if place.rank == 0:
        held = {name: _held(learner) for name, learner in learners.items()}
        weights = {name: (row["importance_weight_mean"], row["importance_weight_max"]) for name, row in first.items()}
        print(_table(seconds, {"held": held, "kept": kept, "weights": weights}, options, load))
    dist.barrier()


def _works(name: str, place: Place) -> bool:
    return place.rank < KINDS[name][0]


def _learner(config: LearnerConfig, workers: int) -> Learner:
    ranks = DistributedRanks(config) if workers > 1 else None
    return Learner(load_policy(POLICY), load_policy(POLICY), config, SAMPLING, total_steps=1000, ranks=ranks)


def _batch(rows: int, frames: int) -> TrainingBatch:
    """Clips of the shipped policy with random rewards; the same in every process."""
    policy, zeros = load_policy(POLICY), np.zeros(rows, np.int64)
    prompts = tuple(load_prompts(str(ASSETS / "prompts/train.txt"), "", 2000, "prompts.train")[:rows])
    codes, log_probs = Sampler(policy).sample(policy.encode_text(prompts), range(rows), frames, SAMPLING)
    rewards = np.random.default_rng(0).standard_normal(rows).astype(np.float32)
    tokens = codes.numpy().astype(np.uint16)
    return TrainingBatch(np.arange(rows), zeros, prompts, tokens, log_probs.numpy(), zeros, rewards, {}, SAMPLING)


def _kept(learner: Learner, batch: TrainingBatch) -> int:
    """Bytes of different memory that autograd keeps for one backward pass of the policy over a micro-batch."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = learner.config.micro_batch_size
    codes, text = (
        torch.from_numpy(batch.codes[:rows].astype(np.int64)),
        learner.policy.encode_text(batch.prompts[:rows]),
    )
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        log_pi = log_distribution(learner.policy, codes, text, learner.sampling)
    log_pi.sum().backward()  # also gives back what FSDP gathered
    learner.policy.zero_grad()
    return sum(kept.values())


def _held(learner: Learner) -> int:
    """Bytes of weights and moments in this process."""
    state = learner.state()
    tensors = [*state["policy"].values(), *state["value"].values(), *learner.reference.state_dict().values()]
    for moments in (*state["policy_optimiser"].values(), *state["value_optimiser"].values()):
        tensors.extend(moments.values())
    return sum(own_part(tensor.detach()).nbytes for tensor in tensors)


def _table(seconds: dict[str, list[Any]], facts: dict[str, Any], options: dict[str, int], load: float) -> str:
    shape = f"B = {options['batch']}, passes of {options['micro']} a worker, T = {options['frames']}"
    first = np.array([wall for wall, _ in seconds["one worker"]])
    lines = [
        f"{shape}; {options['rounds']} rounds in turns, {os.cpu_count()} cores, load {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after.",
        "",
        "| learner | s a step | of one worker's | CPU s, all workers | MB held a worker | MB for backward | "
        "importance weight, mean and largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rounds in seconds.items():
        wall, cpu = np.array(rounds).T
        ratio, (mean, largest) = wall / first, facts["weights"][name]
        lines.append(
            f"| {name} | {np.median(wall):.2f} ({wall.min():.2f}..{wall.max():.2f}) | {np.median(ratio):.2f} "
            f"({ratio.min():.2f}..{ratio.max():.2f}) | {np.median(cpu):.2f} | {facts['held'][name] / 1e6:.0f} | "
            f"{facts['kept'][name] / 1e6:.0f} | {mean:.5f}, {largest:.3f} |"
        )
    return "\n".join(lines)


def _options(arguments: list[str]) -> dict[str, int]:
    return DEFAULTS | {key: int(value) for key, value in (argument.split("=") for argument in arguments)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
