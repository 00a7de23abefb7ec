"""Where a learner step's time goes: the real Learner on a policy of the shipped size, split by part.

    python -m benchmarks.learner_step [threads=1] [batch=64] [micro=32] [frames=50] [rounds=5]

Parts are timed from outside, by hooks on the modules and wrappers around backward and the optimisers, so the step that
is measured is the step that runs. "loss terms" is the rest: log-softmax, exact KL, importance weights, metrics.
Variants are run in turns, so that a busy moment of the machine hits all of them; the last row, CPU seconds of all
threads, is what a busy machine disturbs least.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from actors.records import TrainingBatch
from configs.schema import LearnerConfig
from learner.learner import Learner
from learner.optimiser import Optimiser
from policy.log_probs import gather, log_distribution
from policy.port import SamplingSettings
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

PARTS = ("policy forward", "reference forward", "value forward", "backward", "optimiser", "loss terms")
VARIANTS = {
    "value": (LearnerConfig(baseline="value"), SamplingSettings()),
    "value, guidance 3": (LearnerConfig(baseline="value"), SamplingSettings(guidance_scale=3.0)),
    "value on the policy's trunk": (LearnerConfig(value_trunk="policy", value_gradient=0.5), SamplingSettings()),
    "leave_one_out": (LearnerConfig(baseline="leave_one_out"), SamplingSettings()),
}


def main(arguments: list[str]) -> None:
    options = {"threads": 1, "batch": 64, "micro": 32, "frames": 50, "rounds": 5}
    options |= {key: int(value) for key, value in (argument.split("=") for argument in arguments)}
    torch.set_num_threads(options["threads"])
    learners = {name: _learner(config, settings, options["micro"]) for name, (config, settings) in VARIANTS.items()}
    batches = {name: _batch(learner, options["batch"], options["frames"]) for name, learner in learners.items()}
    times: dict[str, list[dict[str, float]]] = defaultdict(list)
    load_before = os.getloadavg()[0]
    for turn in range(options["rounds"] + 1):
        for name, learner in learners.items():
            with _timed(learner) as seconds:
                begin, begin_cpu = time.perf_counter(), time.process_time()
                learner.step(batches[name])
                seconds["step"] = time.perf_counter() - begin
                seconds["CPU of the step"] = time.process_time() - begin_cpu
            if turn:  # the first one warms up
                times[name].append(seconds)
    print(_table(times, options, load_before))


def _learner(config: LearnerConfig, settings: SamplingSettings, micro: int) -> Learner:
    torch.manual_seed(0)
    policy = TinyMusicLM(TinyMusicLMConfig(), TextTokenizer(words=tuple(f"word{i}" for i in range(700))))
    return Learner(policy, policy, replace(config, micro_batch_size=micro), settings, total_steps=1000)


def _batch(learner: Learner, rows: int, frames: int) -> TrainingBatch:
    policy: Any = learner.policy
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, stream.size, (rows, frames)) for stream in policy.streams], 1)
    prompts = tuple(f"word{row // 4} word{row % 3}" for row in range(rows))
    cells = torch.from_numpy(codes)
    with torch.no_grad():
        dist = log_distribution(policy, cells, policy.encode_text(prompts), learner.sampling)
    rewards = rng.standard_normal(rows).astype(np.float32)
    zeros = np.zeros(rows, np.int64)
    return TrainingBatch(
        np.arange(rows),
        zeros,
        prompts,
        codes.astype(np.uint16),
        gather(dist, cells).numpy(),
        zeros,
        rewards,
        {},
        learner.sampling,
    )


@contextmanager
def _timed(learner: Learner) -> Iterator[dict[str, float]]:
    """Seconds by part of what runs inside."""
    seconds: dict[str, float] = defaultdict(float)
    modules = {"policy forward": learner.policy, "reference forward": learner.reference, "value forward": learner.value}
    hooks = []
    for part, module in modules.items():
        if module is None:
            continue
        begins: list[float] = []
        hooks.append(module.register_forward_pre_hook(lambda *_, b=begins: b.append(time.perf_counter())))
        hooks.append(module.register_forward_hook(lambda *_, p=part, b=begins: _add(seconds, p, b.pop())))
    with (
        mock.patch.object(torch.Tensor, "backward", _clocked(torch.Tensor.backward, "backward", seconds)),
        mock.patch.object(Optimiser, "step", _clocked(Optimiser.step, "optimiser", seconds)),
        mock.patch.object(Optimiser, "clip", _clocked(Optimiser.clip, "optimiser", seconds)),
    ):
        yield seconds
    for hook in hooks:
        hook.remove()
    seconds["loss terms"] = seconds["step"] - sum(seconds[part] for part in PARTS if part != "loss terms")


def _clocked(function: Callable[..., Any], part: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            _add(seconds, part, begin)

    return wrapper


def _add(seconds: dict[str, float], part: str, begin: float) -> None:
    seconds[part] += time.perf_counter() - begin


def _table(times: dict[str, list[dict[str, float]]], options: dict[str, int], load_before: float) -> str:
    shape = f"B = {options['batch']} in micro-batches of {options['micro']}, T = {options['frames']}"
    load = f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    lines = [
        f"Seconds of one learner step, median of {options['rounds']} (min..max); {shape}, "
        f"{options['threads']} thread(s), {os.cpu_count()} cores, {load}.",
        "",
        "| part | " + " | ".join(times) + " |",
        "|---|" + "---|" * len(times),
    ]
    for part in (*PARTS, "step", "CPU of the step"):
        cells = []
        for rounds in times.values():
            values = [seconds[part] for seconds in rounds]
            cells.append(f"{np.median(values):.3f} ({min(values):.3f}..{max(values):.3f})")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
