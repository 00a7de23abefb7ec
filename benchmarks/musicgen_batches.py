"""Clips of a MusicGen decoded and scored together, against one by one.

    python -m benchmarks.musicgen_batches [rows=16] [group=4] [seconds=1] [rounds=3] [threads=1] [clap_layers=12]
                                          [only=decode,clap,text_adherence,quality]

decode: EnCodec at 32 kHz in the size that every MusicGen brings. clap: CLAP in the size of laion/clap-htsat-unfused
(HTSAT-tiny and roberta-base), which reads ten seconds whatever the clip's length. text_adherence, quality: the embedded
ones. Codec and CLAP have random weights, which take the same time. `group` clips stand in a row for each prompt. One by
one and together take turns; other load on the machine hurts CPU time less than wall clock. The floor is what the
multiplications of "together" take at the rate of one large matrix product, which has its turn too.
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

from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import CODEC_DEFAULTS
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
Pair = tuple[Callable[[], object], Callable[[], object]]  # one by one, together


def main(arguments: list[str]) -> int:
    options = DEFAULTS | dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := sorted(options.keys() - DEFAULTS):
        print(f"error: {unknown[0]}: unknown, allowed {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(int(options["threads"]))
    print(f"{options['rows']} clips of {options['seconds']} s, {options['group']} of a prompt\n")
    heads = (
        "what",
        "one by one s",
        "together s",
        "ratio, wall clock",
        "ratio, CPU",
        "floor s",
        "together / floor",
        "load",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, pair in _pairs(options):
        work = _multiplications(pair[1])
        spent = [[_clocked(call) for call in (*pair, _product)] for _ in range(int(options["rounds"]))]
        walls = [statistics.median(clocks[side][0] for clocks in spent) for side in (0, 1)]
        ratios = [sorted(clocks[0][at] / clocks[1][at] for clocks in spent) for at in (0, 1)]
        shown = [f"{statistics.median(each):.2f} ({each[0]:.2f}..{each[-1]:.2f})" for each in ratios]
        floor = min(clocks[2][1] for clocks in spent) * work / PRODUCT_FLOP
        least = [f"{floor:.2f}", f"{min(clocks[1][1] for clocks in spent) / floor:.2f}"]
        cells = [name, f"{walls[0]:.2f}", f"{walls[1]:.2f}", *shown, *least, f"{os.getloadavg()[0]:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _multiplications(call: Callable[[], object]) -> int:
    """Of matrices, convolutions and recurrent layers, an addition counted beside each."""
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counted:  # oneDNN's are not seen
        call()
    return counted.get_total_flops()


def _product() -> None:
    for _ in range(PRODUCTS):
        torch.mm(SQUARE, SQUARE)


def _clocked(call: Callable[[], object]) -> tuple[float, float]:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def _pairs(options: dict[str, str]) -> Iterator[tuple[str, Pair]]:
    rows, group, seconds = int(options["rows"]), int(options["group"]), float(options["seconds"])
    wanted = options["only"].split(",")
    clips = _clips(rows, group, seconds)
    if "decode" in wanted:
        yield "decode", _decoding(rows, round(50 * seconds))
    with tempfile.TemporaryDirectory() as folder:
        if "clap" in wanted:
            _write_clap(Path(folder), int(options["clap_layers"]))
            yield "clap", _scoring(clips, {"clap": RewardConfig(checkpoint=folder)})
    for name in ("text_adherence", "quality"):
        if name in wanted:
            yield name, _scoring(clips, {name: RewardConfig(checkpoint=str(PROJECT_ROOT / "assets/tiny" / name))})


def _decoding(rows: int, frames: int) -> Pair:
    torch.manual_seed(0)
    codec = MusicGenCodec(CODEC_DEFAULTS, channels=1, levels=4).eval().requires_grad_(False)
    codec.codebooks.normal_()
    codes = torch.randint(2048, (rows, 4, frames))
    return lambda: [codec.decode(clip) for clip in codes.split(1)], lambda: codec.decode(codes)


def _scoring(clips: ClipBatch, config: dict[str, RewardConfig]) -> Pair:
    (model,) = build_rewards(config)
    each = [clips.take([row]) for row in range(len(clips))]
    return lambda: [model.score(clip) for clip in each], lambda: model.score(clips)


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
