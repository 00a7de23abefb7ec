"""The learner's step on a MusicGen against plain autograd over transformers' model, and against the processor.

    python -m benchmarks.musicgen_step [shape=small] [seconds=2] [rows=2] [rounds=3] [guidance=1,3] [threads=1]
                                       [layers=24] [precisions=float32,bfloat16]
    python -m benchmarks.musicgen_step what=memory [clip=30] [kinds=plain,ours,recomputed]

step: the real Learner's gradient of one micro-batch (policy gradient, exact KL to a frozen anchor; no value network)
and the same loss written over `MusicgenForConditionalGeneration`, in turns; beside it the update that follows once a
step, clipping and Adam, which are the same for both. Both train the very same tensors: transformers' parameters are
views of ours, and so are its Adam's moments. Losses and gradient norms are compared before anything is timed. The floor
is the time that the linear layers' products alone would take at the rate at which oneDNN multiplies matrices of their
shapes, measured in every round; attention, norms and the loss come on top of it. With precision bfloat16 (float32
weights for Adam) ours has copies of its own, so that memory must hold all three.
memory: the largest resident memory of a process that makes one step of one clip, all of its weights, gradients and
moments included. Each kind is a process of its own.
Other load on the machine hurts wall clock most, CPU time less, ratios within a round least.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist

from actors.records import TrainingBatch
from benchmarks.plain_musicgen import PlainStep
from configs.schema import LearnerConfig
from learner.learner import Learner
from learner.sharding import DistributedRanks, join
from policy.checkpoint import load_policy
from policy.linear import dense
from policy.log_probs import gather, log_distribution
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings

SHAPES = {
    "small": RandomShapes(width=1024, layers=24, heads=16, entries=2048, text_width=768, spread=0.02),
    "tiny": RandomShapes(width=256, layers=6, heads=4, entries=512, text_width=768, spread=0.05),
}
DEFAULTS = {
    "shape": "small",
    "layers": "0",
    "seconds": "2",
    "rows": "2",
    "rounds": "3",
    "guidance": "1,3",
    "threads": "1",
    "precisions": "float32",
    "what": "step",
    "clip": "30",
    "kinds": "plain,ours,recomputed",
}
PROMPTS = ("slow piano with drums", "upbeat jazz guitar", "dark drone and strings", "cheerful folk violin")
RATE = 1e-12  # so small that no weight changes: both see the same weights in every round


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["child"]:
        _child(arguments[1], Path(arguments[2]), float(arguments[3]), int(arguments[4]))
        return 0
    options = DEFAULTS | dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := sorted(options.keys() - DEFAULTS) + [key for key in ("shape",) if options[key] not in SHAPES]:
        print(f"error: {unknown[0]}: unknown, allowed {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(int(options["threads"]))
    shapes = SHAPES[options["shape"]]
    if int(options["layers"]):
        shapes = RandomShapes(**{**vars(shapes), "layers": int(options["layers"])})
    print(f"width {shapes.width}, {shapes.layers} layers, {shapes.entries} entries; {options['threads']} thread(s)\n")
    with tempfile.TemporaryDirectory() as folder:
        directory = write_random(Path(folder) / "musicgen", shapes)
        if options["what"] == "memory":
            _memory(directory, options)
        else:
            _steps(directory, options)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


# ---- time ---------------------------------------------------------------------------------------------------------


def _steps(directory: Path, options: dict[str, str]) -> None:
    rows, seconds = int(options["rows"]), float(options["seconds"])
    print(
        f"One micro-batch of {rows} clips of {seconds:g} s; seconds, medians of {options['rounds']} rounds in turns.\n"
    )
    heads = "guidance", "learner", "plain", "ours", "plain / ours", "CPU time", "floor", "ours / floor", "CPU time"
    print(f"| {' | '.join(heads)} | update | load |\n{'|---' * (len(heads) + 2)}|", flush=True)
    for guidance in (float(text) for text in options["guidance"].split(",")):
        learner = _learner(directory, SamplingSettings(1.0, guidance), rows)
        batch = _batch(learner, rows, seconds)
        learner.step(batch)  # makes Adam's moments, which both use
        plain = PlainStep(learner)
        _require_same(learner, plain, batch)
        learners = {"float32": learner}
        if "bfloat16" in options["precisions"]:
            learners["bfloat16"] = _learner(directory, learner.sampling, rows, precision="bfloat16")
            learners["bfloat16"].step(batch)
        spent = _in_turns(learners, plain, batch, int(options["rounds"]))
        work = _products(learner, rows, batch.codes.shape[2], guidance)
        for name in learners:
            print(_row(guidance, name, spent, work), flush=True)


Spent = dict[str, list[tuple[float, float]]]  # by what was timed: wall clock and CPU time of each round


def _in_turns(learners: dict[str, Learner], plain: PlainStep, batch: TrainingBatch, rounds: int) -> Spent:
    spent: Spent = defaultdict(list)
    for _ in range(rounds):
        spent["plain"].append(_clocked(lambda: plain.gradient(batch)))
        spent["plain update"].append(_clocked(plain.update))
        plain.model.zero_grad(set_to_none=True)
        for name, learner in learners.items():
            inputs = learner._inputs(batch)
            spent[name].append(_clocked(lambda learner=learner, inputs=inputs: learner._accumulate(inputs)))
            spent[f"{name} update"].append(_clocked(lambda learner=learner: _update(learner)))
            learner.policy.zero_grad(set_to_none=True)
            spent[f"{name} rate"].append(_rate(learner, batch, name))
    return spent


def _update(learner: Learner) -> None:
    learner._clip_gradients()
    learner._update()


def _clocked(call: Callable[[], object]) -> tuple[float, float]:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def _row(guidance: float, name: str, spent: Spent, work: float) -> str:
    plain, ours = spent["plain"], spent[name]
    floor = [(work / wall, work / cpu) for wall, cpu in spent[f"{name} rate"]]
    middle = [f"{statistics.median(wall for wall, _ in each):.2f}" for each in (plain, ours, floor)]
    update = statistics.median(wall for wall, _ in spent[f"{name} update"])
    cells = [f"{guidance:g}", name, *middle[:2], _ratio(plain, ours, 0), _ratio(plain, ours, 1), middle[2]]
    cells += [_ratio(ours, floor, 0), _ratio(ours, floor, 1), f"{update:.2f}", f"{os.getloadavg()[0]:.1f}"]
    return f"| {' | '.join(cells)} |"


def _ratio(one: list[tuple[float, float]], other: list[tuple[float, float]], clock: int) -> str:
    """Median and range over rounds; clock: 0 wall, 1 CPU."""
    ratios = sorted(a[clock] / b[clock] for a, b in zip(one, other, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"


def _require_same(learner: Learner, plain: PlainStep, batch: TrainingBatch) -> None:
    """Both make the same update, or the comparison means nothing."""
    one, other = learner.step(batch), plain.step(batch)
    for name in ("policy_loss", "grad_norm", "kl"):
        if abs(one[name] - other[name]) > 1e-4 * max(1.0, abs(one[name])):
            raise RuntimeError(f"{name}: ours {one[name]}, plain {other[name]}")
    learner.policy.zero_grad(set_to_none=True)
    plain.model.zero_grad(set_to_none=True)


def _learner(directory: Path, sampling: SamplingSettings, rows: int, **changes: Any) -> Learner:
    settings: dict[str, Any] = {"baseline": "batch_mean", "micro_batch_size": rows, "batch_size": rows}
    config = LearnerConfig(learning_rate=RATE, warmup_steps=0, lr_schedule="constant", **settings | changes)
    policy, ranks = load_policy(directory), None
    if config.precision != "float32":
        if not dist.is_initialized():
            join(config, None, 60.0)
        ranks = DistributedRanks(config)
    return Learner(policy, policy, config, sampling, total_steps=1000, ranks=ranks)


def _batch(learner: Learner, rows: int, seconds: float, measured: bool = True) -> TrainingBatch:
    """Random clips; their behaviour log-probabilities are the policy's, or a constant where that would cost memory."""
    policy: Any = learner.policy
    frames = round(seconds * policy.frame_rate_hz)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, policy.shapes.entries, (rows, policy.shapes.codebooks, frames))
    prompts = tuple(PROMPTS[row % len(PROMPTS)] for row in range(rows))
    log_probs = np.full(codes.shape, -np.log(policy.shapes.entries), np.float32)
    if measured:
        with torch.no_grad():
            cells = torch.from_numpy(codes)
            dist = log_distribution(policy, cells, policy.encode_text(prompts), learner.sampling)
            log_probs = gather(dist, cells).numpy()
    zeros, rewards = np.zeros(rows, np.int64), rng.standard_normal(rows).astype(np.float32)
    tokens = codes.astype(np.uint16)
    return TrainingBatch(np.arange(rows), zeros, prompts, tokens, log_probs, zeros, rewards, {}, learner.sampling)


def _products(learner: Learner, rows: int, frames: int, guidance: float) -> float:
    """Floating point operations of a step's linear layers: twice the weights' numbers a token, once forward for policy
    and anchor, twice more backward for the policy."""
    shapes = learner.policy.shapes
    width, hidden = shapes.width, shapes.hidden
    own = shapes.layers * (4 * width**2 + 2 * width * hidden)
    cross = shapes.layers * 2 * width**2  # queries and outputs; keys and values are those of a few words
    heads = shapes.codebooks * shapes.entries * width * frames
    tokens = frames + max(shapes.delays)
    passes = 2 if guidance != 1.0 else 1
    return 4 * 2 * rows * (tokens * (passes * own + cross) + heads)


def _rate(learner: Learner, batch: TrainingBatch, precision: str) -> tuple[float, float]:
    """Operations a second of oneDNN on the feed-forward layer's three products, which are most of the work: by wall
    clock and by CPU time."""
    shapes = learner.policy.shapes
    tokens = len(batch) * (batch.codes.shape[2] + max(shapes.delays))
    sizes = (tokens, shapes.width), (shapes.hidden, shapes.width), (tokens, shapes.hidden)
    x, weight, grad = (torch.randn(size).to(getattr(torch, precision)) for size in sizes)

    def products() -> None:
        dense(x, weight)
        dense(grad, weight.t())
        dense(grad.t(), x.t())

    products()
    times = [_clocked(products) for _ in range(5)]
    wall, cpu = (
        3 * 2 * tokens * shapes.width * shapes.hidden / statistics.median(each) for each in zip(*times, strict=True)
    )
    return wall, cpu


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# ---- memory -------------------------------------------------------------------------------------------------------


def _memory(directory: Path, options: dict[str, str]) -> None:
    print(f"One step of one clip of {options['clip']} s.\n")
    print("| kind | largest memory GB | of it before the step | s a step | load |\n|---|---|---|---|---|", flush=True)
    for kind in options["kinds"].split(","):
        words = [sys.executable, "-m", "benchmarks.musicgen_step", "child", kind, str(directory)]
        done = subprocess.run(
            [*words, options["clip"], options["threads"]], stdout=subprocess.PIPE, text=True, check=True
        )
        print(f"| {kind} | {done.stdout.strip()} | {os.getloadavg()[0]:.1f} |", flush=True)


def _child(kind: str, directory: Path, seconds: float, threads: int) -> None:
    """Prints its own largest memory, what it held before the step (weights, anchor, moments), and the step's time."""
    torch.set_num_threads(threads)
    learner = _learner(directory, SamplingSettings(1.0, 1.0), 1, activation_checkpointing=kind == "recomputed")
    learner.step(_batch(learner, 1, 0.1, measured=False))  # makes Adam's moments
    plain = PlainStep(learner) if kind == "plain" else None
    learner.policy.zero_grad(set_to_none=True)
    batch = _batch(learner, 1, seconds, measured=False)
    held = psutil.Process().memory_info().rss
    took = _timed(lambda: plain.step(batch) if plain is not None else learner.step(batch))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{largest / 1e9:.2f} | {held / 1e9:.2f} | {took:.0f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
