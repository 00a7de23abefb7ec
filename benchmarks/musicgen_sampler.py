"""The MusicGen sampler against transformers' `generate`, run in turns on the same random weights and prompts.

    python -m benchmarks.musicgen_sampler [rounds=5] [rows=16] [group=4] [frames=100] [guidance=1,3] [width=256]
                                          [layers=6] [entries=512]

transformers samples with top-k 250, as its users do, and its codec is left out (codes, not sound). `group` samples of
each prompt stand in a row. Prints a markdown table: milliseconds a step, tokens a second, the ratio's median and range
over the rounds. Other load on the machine hurts both, so look at the ratio.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from codec.torchaudio_guard import import_torchaudio
from policy.checkpoint import load_policy
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of

DEFAULTS = {
    "rounds": "5",
    "rows": "16",
    "group": "4",
    "frames": "100",
    "guidance": "1,3",
    "width": "256",
    "layers": "6",
    "entries": "512",
    "threads": "1",
}
PROMPTS = ("slow piano", "upbeat jazz guitar with drums", "dark drone", "cheerful folk with violin and harmonica")


def main(arguments: list[str]) -> int:
    options = DEFAULTS | dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := sorted(options.keys() - DEFAULTS):
        print(f"error: {unknown[0]}: unknown, allowed {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(int(options["threads"]))
    width, layers, entries = (int(options[name]) for name in ("width", "layers", "entries"))
    rows, group, frames, rounds = (int(options[name]) for name in ("rows", "group", "frames", "rounds"))
    with tempfile.TemporaryDirectory() as folder:
        shapes = RandomShapes(width=width, layers=layers, heads=width // 64, entries=entries)
        directory = write_random(Path(folder) / "musicgen", shapes)
        policy, theirs = load_policy(directory), transformers_model(directory)
    texts = [PROMPTS[(row // group) % len(PROMPTS)] for row in range(rows)]
    print(f"width {width}, {layers} layers, {entries} entries, {rows} rows in groups of {group}, {frames} frames\n")
    print("| guidance | transformers ms a step | ours ms a step | ours tokens a second | ratio (range) | load |")
    print("|---|---|---|---|---|---|")
    for guidance in (float(text) for text in options["guidance"].split(",")):
        calls = calls_of(policy, theirs, texts, frames, guidance)
        for call in calls:
            call(4)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for each, call in zip(times, calls, strict=True):
                each.append(timed(call, frames))
        steps = frames + max(policy.shapes.delays)
        slow, fast = (statistics.median(each) for each in times)
        ratios = sorted(one / other for one, other in zip(*times, strict=True))
        load = os.getloadavg()[0]
        print(
            f"| {guidance:g} | {1e3 * slow / steps:.1f} | {1e3 * fast / steps:.1f} | "
            f"{rows * len(policy.streams) * frames / fast:,.0f} | {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {load:.1f} |",
            flush=True,
        )
    return 0


def transformers_model(directory: Path) -> Any:
    """Without its codec's work."""
    import_torchaudio()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(directory).eval()
    model.audio_encoder.decode = lambda codes, **_: SimpleNamespace(audio_values=torch.zeros(codes.shape[1], 1, 8))
    return model


def calls_of(
    policy: Any, theirs: Any, texts: list[str], frames: int, guidance: float
) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """transformers' and ours, each taking a number of frames."""
    text = policy.encode_text(texts)
    sampler, delay = sampler_of(policy), max(policy.shapes.delays)

    def generate(count: int) -> Tensor:
        with torch.inference_mode():
            return theirs.generate(
                input_ids=text,
                attention_mask=(text != 0).long(),
                do_sample=True,
                top_k=250,
                guidance_scale=guidance,
                max_new_tokens=count + delay,
            )

    def sample(count: int) -> object:
        return sampler.sample(text, range(len(text)), count, SamplingSettings(1.0, guidance))

    return generate, sample


def timed(call: Callable[[int], object], frames: int) -> float:
    started = time.perf_counter()
    call(frames)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
