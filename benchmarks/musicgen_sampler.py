"""The MusicGen sampler against transformers' `generate`, in turns on the same random weights and prompts.

    python -m benchmarks.musicgen_sampler [shape=tiny,small] [guidance=1,3] [what=generate,groups,lengths]
                                          [rows=16] [group=4] [frames=0] [rounds=5] [seconds=120] [threads=1]

shape: tiny is 256 wide, 6 layers, 512 entries a codebook; small is that of MusicGen small (1024, 24, 2048; about 7 GB
of memory). transformers samples with top-k 250, as its users do, and its codec is left out (codes, not sound).
frames 0: 100 of the tiny shape, 10 of the small one. Each guidance ends after `rounds` rounds or `seconds` seconds.

Prints markdown tables. generate: a step's wall clock and CPU time, how often transformers takes ours in the same round,
median and range, and how far log-probabilities are from the policy's own. groups: one call with `group` samples
of each prompt against as many calls with one. lengths: clips of a tenth of `frames` up to all of them in `rows` slots
against batches, each as long as its longest clip. Other load on the machine hurts all; CPU time least, as it does not
count waiting. Floors: a step's arithmetic at the rate of the compiled product on weights in the cache, and reading
weights and caches once from memory.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine_rates import floors_s, machine_rates
from cluster.errors import UserError
from codec.torchaudio_guard import import_torchaudio
from configs.command_line import exit_status_of, parse_settings
from configs.setting import setting
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.musicgen.sampler import MusicGenSampler
from policy.port import SamplingSettings
from policy.samplers import PolicySampler, sampler_of

SHAPES = {
    "tiny": RandomShapes(width=256, layers=6, heads=4, entries=512),
    "small": RandomShapes(width=1024, layers=24, heads=16, entries=2048, spread=0.02),
}
FRAMES = {"tiny": 100, "small": 10}
WARM_UP_FRAMES = 3
BATCHES = 3  # of clips of different lengths
TABLES = ("generate", "groups", "lengths")
PROMPTS = ("slow piano", "upbeat jazz guitar with drums", "dark drone", "cheerful folk with violin and harmonica")
Call = Callable[[int], object]  # with a number of frames


@dataclass(frozen=True)
class Settings:
    """Of one run of this benchmark."""

    shape: str = "tiny,small"
    guidance: str = "1,3"
    what: str = "generate,groups,lengths"
    rows: int = 16
    group: int = 4
    frames: int = setting(0, "0: those of the shape", at_least=0)
    rounds: int = 5
    seconds: float = 120.0
    threads: int = 1


@dataclass(frozen=True)
class Spent:
    """Of one call, in seconds."""

    wall: float
    cpu: float


def main(arguments: Sequence[str]) -> int:
    return exit_status_of(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> None:
    settings = parse_settings(arguments, Settings())
    shapes, tables = _of(settings.shape, "shape", SHAPES), _of(settings.what, "what", TABLES)
    scales = [float(text) for text in settings.guidance.split(",")]
    if settings.rows % settings.group:
        raise UserError(f"group: got {settings.group}, allowed a divisor of rows ({settings.rows})")
    torch.set_num_threads(settings.threads)
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            directory = write_random(Path(folder) / "musicgen", SHAPES[shape])
            policy = load_policy(directory)
            theirs = transformers_models(directory) if "generate" in tables else {}
        count = settings.frames or FRAMES[shape]
        print(f"\n{shape} shape, {settings.rows} rows in groups of {settings.group}, {count} frames, ", end="")
        print(f"{settings.threads} thread(s), {os.cpu_count()} CPUs\n")
        if "generate" in tables:
            against_generate(policy, theirs, settings, scales, count)
        if "groups" in tables:
            groups_against_single_ones(policy, settings, scales, count)
        if "lengths" in tables:
            slots_against_batches(policy, settings, scales, count)


def _of(text: str, field: str, allowed: Sequence[str] | dict[str, RandomShapes]) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in allowed]:
        raise UserError(f"{field}: got {wrong[0]!r}, allowed {', '.join(allowed)}")
    return names


def against_generate(
    policy: Any, theirs: dict[str, Any], settings: Settings, scales: Sequence[float], frames: int
) -> None:
    """The table of ours against theirs, float32 and bfloat16."""
    text = policy.encode_text([PROMPTS[(row // settings.group) % len(PROMPTS)] for row in range(settings.rows)])
    ours = {precision: sampler_of(policy, precision) for precision in ("float32", "bfloat16")}
    delay, rates = max(policy.shapes.delays), machine_rates()
    print(f"compiled products {rates.flop['float32'] / 1e9:.0f} Gflop/s in float32, ", end="")
    print(f"{rates.flop['bfloat16'] / 1e9:.0f} in bfloat16; reading {rates.read / 1e9:.1f} GB/s\n")
    print("| guidance | sampler | ms a step | CPU ms a step | floors, ms | tokens/s | ", end="")
    print("ratio, wall clock | ratio, CPU | ratio to bfloat16, CPU | load |\n|---|---|---|---|---|---|---|---|---|---|")
    for guidance in scales:
        calls = {f"transformers {name}": generate(model, text, guidance, delay) for name, model in theirs.items()}
        calls |= {f"ours {name}": sample(sampler, text, guidance) for name, sampler in ours.items()}
        spent = in_turns(calls, frames, settings)
        base, half = spent["transformers float32"], spent["transformers bfloat16"]
        for name, times in spent.items():
            steps = frames + delay
            wall, cpu = (statistics.median(getattr(one, kind) for one in times) for kind in ("wall", "cpu"))
            arithmetic, reading = floors_s(
                policy.shapes, len(text), guidance != 1, steps / 2, name.endswith("bfloat16"), rates
            )
            cells = [
                f"{guidance:g} | {name} | {1e3 * wall / steps:.1f} | {1e3 * cpu / steps:.1f}",
                f"{1e3 * arithmetic:.1f}, {1e3 * reading:.1f}",
                f"{len(text) * len(policy.streams) * frames / wall:,.0f}",
                _ratio([one.wall / other.wall for one, other in zip(base, times, strict=True)]),
                _ratio([one.cpu / other.cpu for one, other in zip(base, times, strict=True)]),
                f"{statistics.median(one.cpu / other.cpu for one, other in zip(half, times, strict=True)):.2f}",
                f"{os.getloadavg()[0]:.1f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
    print()
    for guidance in scales:
        for name, sampler in ours.items():
            mean, most = mismatch(policy, sampler, text, guidance, frames)
            print(f"{name}, guidance {guidance:g}: {mean:.1e} nats a token from the policy's own, at most {most:.1e}")
    print()


@torch.no_grad()
def mismatch(policy: Any, sampler: PolicySampler, text: Tensor, guidance: float, frames: int) -> tuple[float, float]:
    """Mean and greatest |log mu - log pi| over the cells of a call, nats."""
    settings = SamplingSettings(1.0, guidance)
    codes, log_mu = sampler.sample(text, range(len(text)), frames, settings)
    gap = (gather(log_distribution(policy, codes, text, settings), codes) - log_mu).abs()
    return float(gap.mean()), float(gap.max())


def groups_against_single_ones(policy: Any, settings: Settings, scales: Sequence[float], frames: int) -> None:
    """The table of one call with G samples of each prompt, against G calls with one."""
    prompts = [PROMPTS[place % len(PROMPTS)] for place in range(settings.rows // settings.group)]
    single = policy.encode_text(prompts)
    grouped = single.repeat_interleave(settings.group, dim=0)
    sampler = sampler_of(policy)
    print("| guidance | prompts | samples of each | one call, ms | as many calls with one sample, ms | ", end="")
    print("single / group, wall clock | single / group, CPU | load |\n|---|---|---|---|---|---|---|---|")
    for guidance in scales:
        calls = {"group": sample(sampler, grouped, guidance)}
        calls["single"] = repeated(sample(sampler, single, guidance), settings.group)
        spent = in_turns(calls, frames, settings)
        cells = [f"{guidance:g} | {len(prompts)} | {settings.group}", *_compared(spent["group"], spent["single"])]
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def slots_against_batches(policy: Any, settings: Settings, scales: Sequence[float], frames: int) -> None:
    """The table of clips of different lengths in slots, against batches that wait for their longest."""
    rows, sampler = settings.rows, sampler_of(policy)
    assert isinstance(sampler, MusicGenSampler)
    lengths = torch.linspace(0.1, 1, BATCHES * rows)[
        torch.randperm(BATCHES * rows, generator=torch.Generator().manual_seed(0))
    ]
    text = policy.encode_text([PROMPTS[place % len(PROMPTS)] for place in range(len(lengths))])
    print("| guidance | clips | slots | in slots, ms | in batches, ms | batches / slots, wall clock | ", end="")
    print("batches / slots, CPU | load |\n|---|---|---|---|---|---|---|---|")
    for guidance in scales:
        chosen = SamplingSettings(1.0, guidance)

        def each(most: int, chosen: SamplingSettings = chosen) -> object:
            counts = sorted((max(1, round(most * share)) for share in lengths.tolist()), reverse=True)
            return sampler.sample_each(text, range(len(counts)), counts, chosen, rows)

        def batches(most: int, chosen: SamplingSettings = chosen) -> object:
            counts = [max(1, round(most * share)) for share in lengths.tolist()]
            parts = [slice(begin, begin + rows) for begin in range(0, len(counts), rows)]
            return [sampler.sample(text[part], range(rows), max(counts[part]), chosen) for part in parts]

        spent = in_turns({"slots": each, "batches": batches}, frames, settings)
        cells = [f"{guidance:g} | {len(lengths)} | {rows}", *_compared(spent["slots"], spent["batches"])]
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def _compared(fast: list[Spent], slow: list[Spent]) -> list[str]:
    """Cells: ms of both, ratios of wall clock and CPU time, load."""
    return [
        f"{1e3 * statistics.median(each.wall for each in fast):.0f}",
        f"{1e3 * statistics.median(each.wall for each in slow):.0f}",
        _ratio([one.wall / other.wall for one, other in zip(slow, fast, strict=True)]),
        _ratio([one.cpu / other.cpu for one, other in zip(slow, fast, strict=True)]),
        f"{os.getloadavg()[0]:.1f}",
    ]


def in_turns(calls: dict[str, Call], frames: int, settings: Settings) -> dict[str, list[Spent]]:
    """What each call took, round by round, until there are enough rounds or the time is up."""
    for call in calls.values():
        call(WARM_UP_FRAMES)
    spent: dict[str, list[Spent]] = {name: [] for name in calls}
    until = time.monotonic() + settings.seconds
    for turn in range(settings.rounds):
        if turn and time.monotonic() > until:
            break
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call(frames)
            spent[name].append(Spent(time.perf_counter() - wall, time.process_time() - cpu))
    return spent


def transformers_models(directory: Path) -> dict[str, Any]:
    """In float32 and bfloat16, without their codec's work."""
    import_torchaudio()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(directory).eval()
    models = {"float32": model, "bfloat16": copy.deepcopy(model).to(torch.bfloat16)}
    for each in models.values():
        each.audio_encoder.decode = lambda codes, **_: SimpleNamespace(audio_values=torch.zeros(codes.shape[1], 1, 8))
    return models


def generate(model: Any, text: Tensor, guidance: float, delay: int) -> Call:
    """transformers' sampling of a number of frames."""

    def call(frames: int) -> object:
        with torch.inference_mode():
            return model.generate(
                input_ids=text,
                attention_mask=(text != 0).long(),
                do_sample=True,
                top_k=250,
                guidance_scale=guidance,
                max_new_tokens=frames + delay,
            )

    return call


def sample(sampler: PolicySampler, text: Tensor, guidance: float) -> Call:
    """Ours."""
    return lambda frames: sampler.sample(text, range(len(text)), frames, SamplingSettings(1.0, guidance))


def repeated(call: Call, times: int) -> Call:
    """The same call several times."""
    return lambda frames: [call(frames) for _ in range(times)]


def _ratio(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
