"""Clips of a MusicGen decoded and scored together, against one by one, by the same code and by transformers'.

    python -m benchmarks.musicgen_batches [rows=16] [group=4] [seconds=1] [rounds=3] [threads=1] [clap_layers=12]
                                          [only=decode,clap,text_adherence,quality]

decode: EnCodec at 32 kHz in the size that every MusicGen brings. clap: CLAP in the size of laion/clap-htsat-unfused
(HTSAT-tiny and roberta-base), which reads ten seconds whatever the clip's length. text_adherence, quality: the embedded
ones. Codec and CLAP have random weights, which take the same time. `group` clips stand in a row for each prompt. One by
one and together take turns; other load on the machine hurts CPU time less than wall clock. The floor is what the
multiplications of "together" take at the rate of one large matrix product of oneDNN's, which has its turn too.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from codec.audio import resample
from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import CODEC_DEFAULTS
from codec.onednn import product
from codec.torchaudio_guard import import_torchaudio
from configs.paths import PROJECT_ROOT
from configs.schema import RewardConfig
from rewards.port import ClipBatch
from rewards.registry import build_rewards

DEFAULTS = {
    "rows": "16",
    "group": "4",
    "seconds": "1",
    "rounds": "3",
    "threads": "1",
    "clap_layers": "12",
    "only": "decode,clap,text_adherence,quality",
}
WORDS = "slow calm piano fast drums and a flute music"
PRODUCTS, SQUARE = 20, torch.ones(1024, 1024)
PRODUCT_FLOP = PRODUCTS * 2 * len(SQUARE) ** 3
Calls = dict[str, Callable[[], object]]
ALONE, TOGETHER, THEIRS, FLOOR = "one by one", "together", "transformers, one by one", "floor"


def main(arguments: list[str]) -> int:
    options = DEFAULTS | dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := sorted(options.keys() - DEFAULTS):
        print(f"error: {unknown[0]}: unknown, allowed {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(int(options["threads"]))
    print(f"{options['rows']} clips of {options['seconds']} s, {options['group']} of a prompt\n")
    heads = ("what", ALONE, TOGETHER, "ratio, CPU", THEIRS, "ratio to it, CPU", FLOOR, "together / floor", "load")
    print(f"Seconds of CPU time.\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, calls in _subjects(options):
        work = _multiplications(calls[TOGETHER])
        spent = [
            {side: _cpu_seconds(call) for side, call in {**calls, FLOOR: _product}.items()}
            for _ in range(int(options["rounds"]))
        ]
        floor = min(each[FLOOR] for each in spent) * work / PRODUCT_FLOP
        over = min(each[TOGETHER] for each in spent) / floor
        cells = [name, *_against(spent, ALONE)[:1], f"{statistics.median(each[TOGETHER] for each in spent):.2f}"]
        cells += [_against(spent, ALONE)[1], *_against(spent, THEIRS), f"{floor:.2f}", f"{over:.2f}"]
        print(f"| {' | '.join(cells)} | {os.getloadavg()[0]:.1f} |", flush=True)
    return 0


def _against(spent: list[dict[str, float]], side: str) -> tuple[str, str]:
    """Seconds of one side, and how many times those of "together" they are: median (range); empty where it is not."""
    if side not in spent[0]:
        return "", ""
    ratios = sorted(each[side] / each[TOGETHER] for each in spent)
    seconds = statistics.median(each[side] for each in spent)
    return f"{seconds:.2f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"


def _multiplications(call: Callable[[], object]) -> int:
    """Of matrices, convolutions and recurrent layers, an addition counted beside each."""
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counted:  # oneDNN's are not seen
        call()
    return counted.get_total_flops()


def _product() -> None:
    for _ in range(PRODUCTS):
        product(SQUARE, SQUARE)


def _cpu_seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _subjects(options: dict[str, str]) -> Iterator[tuple[str, Calls]]:
    rows, group, seconds = int(options["rows"]), int(options["group"]), float(options["seconds"])
    wanted = options["only"].split(",")
    clips = _clips(rows, group, seconds)
    if "decode" in wanted:
        yield "decode", _decoding(rows, round(50 * seconds))
    with tempfile.TemporaryDirectory() as folder:
        if "clap" in wanted:
            _write_clap(Path(folder), int(options["clap_layers"]))
            calls = _scoring(clips, {"clap": RewardConfig(checkpoint=folder)})
            yield "clap", {**calls, THEIRS: _clap_of_transformers(Path(folder), clips)}
    for name in ("text_adherence", "quality"):
        if name in wanted:
            yield name, _scoring(clips, {name: RewardConfig(checkpoint=str(PROJECT_ROOT / "assets/tiny" / name))})


def _decoding(rows: int, frames: int) -> Calls:
    torch.manual_seed(0)
    codec = MusicGenCodec(CODEC_DEFAULTS, channels=1, levels=4).eval().requires_grad_(False)
    codec.codebooks.normal_()
    codes = torch.randint(2048, (rows, 4, frames))
    import_torchaudio()
    import transformers

    theirs = transformers.EncodecModel(transformers.EncodecConfig(**CODEC_DEFAULTS)).eval().requires_grad_(False)
    return {
        ALONE: lambda: [codec.decode(clip) for clip in codes.split(1)],
        TOGETHER: lambda: codec.decode(codes),
        THEIRS: lambda: [theirs.decode(clip[None], [None]) for clip in codes.split(1)],
    }


def _scoring(clips: ClipBatch, config: dict[str, RewardConfig]) -> Calls:
    (model,) = build_rewards(config)
    each = [clips.take([row]) for row in range(len(clips))]
    return {ALONE: lambda: [model.score(clip) for clip in each], TOGETHER: lambda: model.score(clips)}


def _clap_of_transformers(folder: Path, clips: ClipBatch) -> Callable[[], object]:
    """The package's own feature extractor, tokenizer and model, a clip and its prompt at a time; clips at its rate."""
    import transformers

    model = transformers.ClapModel.from_pretrained(folder).eval().requires_grad_(False)
    features = transformers.ClapFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert clips.pcm is not None
    sounds = resample(clips.pcm[:, 0], clips.sample_rate_hz, features.sampling_rate)

    @torch.inference_mode()
    def score(sound: np.ndarray, prompt: str) -> None:
        heard = features(sound, sampling_rate=features.sampling_rate, return_tensors="pt")
        model(**heard, **tokenizer(prompt, return_tensors="pt"))

    return lambda: [score(sound, prompt) for sound, prompt in zip(sounds, clips.prompts, strict=True)]


def _clips(rows: int, group: int, seconds: float) -> ClipBatch:
    rng, words = np.random.default_rng(0), WORDS.split()
    prompts = tuple(" ".join(words[: 3 + row // group % 6]) for row in range(rows))
    pcm = 0.1 * rng.normal(size=(rows, 1, round(32_000 * seconds)))
    log_mel = rng.normal(size=(rows, 64, round(50 * seconds)))
    return ClipBatch(prompts, 32_000, log_mel=log_mel.astype(np.float32), pcm=pcm.astype(np.float32))


def _write_clap(folder: Path, layers: int) -> None:
    """laion/clap-htsat-unfused in shape; its words are few, which its text tower's time does not hang on."""
    import_torchaudio()
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config: Any = transformers.ClapConfig(text_config={"num_hidden_layers": layers})
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50).save_pretrained(folder)
    words = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words.train_from_iterator([WORDS] * 20, vocab_size=300, special_tokens=marks, show_progress=False)
    words.save_model(str(folder))
    tokenizer = transformers.RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
