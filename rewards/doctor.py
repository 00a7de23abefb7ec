"""`python -m rewards.doctor DIR… [key=value …]`: does each reward model load, and what does it cost?

    python -m rewards.doctor assets/tiny/quality audiobox:models/aes environment=envs/audiobox
    python -m rewards.doctor clap:models/clap clips=FOLDER

DIR is a model of the project, or MODEL:DIR a model of the field. Each is loaded, scores two clips (or those of `clips`)
twice, and one line says how long that took, what memory the model holds, and what it answered; with ten clips or more,
also the shift and scale that bring its scores to one size. Exit status 1 where one fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import psutil

from cluster.errors import RunFailed, UserError
from codec.audio import mix_to_mono, read_audio, resample
from codec.audio_list import list_audio
from codec.log_mel import SAMPLE_RATE_HZ
from configs.command_line import exit_status_of, parse_settings
from configs.paths import existing_asset
from configs.setting import meaning_of, setting
from rewards.extra.catalogue import EXTRAS
from rewards.extra.isolation import IsolatedReward
from rewards.port import ClipBatch
from rewards.registry import BUILT_IN, load_extra

FEWEST_TO_NORMALISE = 10
PROMPTS = ("slow calm piano", "fast drums and a flute")


@dataclass(frozen=True)
class DoctorSettings:
    clips: str = setting("", "folder of audio with captions to score; empty: two made-up clips")
    seconds: float = setting(
        4.0, "of each clip, from its beginning; shorter ones are filled with silence", above=0, at_most=120
    )
    most: int = setting(64, "clips that are scored", at_least=2, at_most=100_000)
    environment: str = setting("", "virtual environment that models of the field run in; empty: this one")
    axis: str = setting("", "of audiobox")
    deadline_s: float = setting(600.0, "of one answer of a model in its own environment", above=0)
    threads: int = setting(1, "torch threads", at_least=1)


@dataclass(frozen=True)
class Finding:
    """What one model did."""

    model: str
    version: str
    load_s: float
    score_s: float  # of all clips, the second time
    memory_bytes: int
    scores: np.ndarray  # [B]
    repeatable: bool


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0 all answered, 1 one did not, 2 with one line for input that cannot be used."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = [f"    {field.name}={field.default}".ljust(28) + meaning_of(field) for field in fields(DoctorSettings)]
        print("\n".join([(__doc__ or "").strip(), "", *rows]))
        return 0 if argv else 2
    return exit_status_of(lambda: _examine([w for w in argv if "=" not in w], [w for w in argv if "=" in w]))


def _examine(models: Sequence[str], words: Sequence[str]) -> None:
    settings = parse_settings(words, DoctorSettings())
    if not models:
        raise UserError("DIR: got none, allowed folders of reward models, or MODEL:DIR")
    import torch

    torch.set_num_threads(settings.threads)
    clips, failed = clips_to_score(settings), []
    for name in models:
        try:
            print(line_of(examine(name, clips, settings)), flush=True)
        except UserError as error:
            failed.append(name)
            print(f"{name}: does not work: {error}", flush=True)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(models)} models do not work: {', '.join(failed)}")


def examine(name: str, clips: ClipBatch, settings: DoctorSettings) -> Finding:
    """Loads a model and lets it score the clips twice. Raises UserError."""
    process = psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    model = load_named(name, settings)
    load_s = time.perf_counter() - started
    first = model.score(clips)
    started = time.perf_counter()
    second = model.score(clips)
    score_s = time.perf_counter() - started
    memory = process.memory_info().rss - before
    if isinstance(model, IsolatedReward):
        memory = model.memory_bytes()
        model.close()
    same = bool(np.array_equal(first, second, equal_nan=True))
    return Finding(name, model.version, load_s, score_s, memory, np.asarray(second), same)


def load_named(name: str, settings: DoctorSettings) -> Any:
    """`DIR` of a model of the project, or `MODEL:DIR`. Raises UserError."""
    from rewards.checkpoint import read_config

    model, colon, directory = name.partition(":")
    if colon and model in EXTRAS:
        options: dict[str, Any] = {"axis": settings.axis} if settings.axis else {}
        if settings.environment:
            options["threads"] = settings.threads
        return load_extra(model, existing_asset(directory), settings.environment, options, settings.deadline_s)
    place = existing_asset(name)
    kind = str(read_config(place).get("kind"))
    if kind not in BUILT_IN:
        raise UserError(
            f"got kind {kind!r} in {place}, allowed {', '.join(BUILT_IN)}, or MODEL:DIR of {', '.join(EXTRAS)}"
        )
    return BUILT_IN[kind](place)


def clips_to_score(settings: DoctorSettings) -> ClipBatch:
    """Clips of one length at 48 kHz mono, with log-mel. Raises UserError where `clips` holds fewer than two."""
    import torch

    from codec.log_mel import log_mel

    rate_hz, length = 48_000, round(settings.seconds * 48_000)
    if settings.clips:
        files = list_audio(settings.clips, name="clips").files[: settings.most]
        if len(files) < 2:
            raise UserError(f"clips: got {len(files)} usable files in {settings.clips}, allowed 2 or more")
        sounds = [_cut(*read_audio(file.path), rate_hz, length) for file in files]
        prompts = tuple(file.caption or "music" for file in files)
    else:
        at = np.arange(length) / rate_hz
        tones = [np.sin(2 * np.pi * hz * at) * np.exp(-3 * (at % beat)) for hz, beat in ((220, 1.0), (660, 0.25))]
        sounds, prompts = [0.3 * tone.astype(np.float32) for tone in tones], PROMPTS
    pcm = np.stack(sounds)[:, None].astype(np.float32)
    mel = log_mel(torch.from_numpy(resample(pcm[:, 0], rate_hz, SAMPLE_RATE_HZ))).numpy()
    return ClipBatch(prompts, rate_hz, log_mel=mel, pcm=pcm)


def line_of(finding: Finding) -> str:
    """One line a model."""
    known = finding.scores[np.isfinite(finding.scores)]
    span = f"{known.min():.4g} to {known.max():.4g}" if len(known) else "none"
    text = (
        f"{finding.model}: version {finding.version}, loaded in {finding.load_s:.1f} s, "
        f"{len(finding.scores)} clips in {finding.score_s:.2f} s, {finding.memory_bytes / 1e6:.0f} MB, scores {span}"
    )
    if len(known) < len(finding.scores):
        text += f", {len(finding.scores) - len(known)} clips without a score"
    if not finding.repeatable:
        text += ", NOT the same the second time"
    if len(known) >= FEWEST_TO_NORMALISE:
        text += f"; shift={known.mean():.4g} scale={known.std(ddof=1):.4g}"
    return text


def _cut(pcm: np.ndarray, from_hz: int, rate_hz: int, length: int) -> np.ndarray:
    mono = resample(mix_to_mono(pcm)[0], from_hz, rate_hz)[:length]
    return np.pad(mono, (0, length - len(mono)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
