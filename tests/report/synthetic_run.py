"""A run folder with invented numbers and invented sounds, in the formats of a real one. Nothing in it was learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.storage import write_parquet_atomic
from evaluation.clips import Clips
from evaluation.sample_folder import write_samples
from evaluation.score_rows import append_rows, rows_table

PROMPTS = (
    "a fast violin melody with drums, staccato",
    "slow church organ, low register, no percussion",
    "gentle flute over piano chords",
    "an energetic trumpet line with a driving beat & <brass> stabs",
    "calm vibraphone, long notes, high and bright",
    "accordion waltz at a moderate pace with accompaniment",
    "plucked guitar, fast runs",
    "mellow clarinet, sustained, over a soft drum groove",
)
REWARDS = {"reward": (0.0, 1.4, 1.1), "text_adherence": (0.32, 0.18, 0.12), "quality": (3.6, 0.5, 0.45)}
JUDGES = {"second_text_audio": (0.31, 0.2, 0.12), "attributes": (0.57, 0.2, 0.09), "tempo": (0.6, 0.3, 0.0)}
CONFIG = """preset: synthetic
run:
  seed: 0
learner:
  steps: {steps}
  batch_size: 64
pipeline:
  mode: sync
"""


def make_synthetic_run(
    directory: Path,
    *,
    steps: int = 300,
    every: int = 50,
    prompts: int = 64,
    judges: bool = True,
    samples: int = 3,
    final: bool = True,
) -> Path:
    """Write a whole run folder under `directory`; fewer steps or no judges for the lean cases."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(CONFIG.format(steps=steps))
    write_parquet_atomic(directory / "metrics.parquet", _metrics(steps, rng))
    checkpoints = sorted({0, *range(every, steps + 1, every), steps})
    scored = {**REWARDS, **(JUDGES if judges else {})}
    for step in checkpoints:
        rows = _rows(step, step / steps, prompts, scored)
        append_rows(directory, rows)
        if step in (0, steps):
            _samples(directory, step, step / steps, samples, scored)
    if final:
        rows = pa.concat_tables([_rows(0, 0.0, 256, scored), _rows(steps, 1.0, 256, scored)])
        write_parquet_atomic(directory / "evaluation_final.parquet", rows)
        (directory / "evaluation_summary.json").write_text(json.dumps(_summary(), indent=1))
    return directory


def _metrics(steps: int, rng: np.random.Generator) -> pa.Table:
    step = np.arange(1, steps + 1)
    done = step / steps
    noise = rng.normal(size=(6, steps))
    return pa.table(
        {
            "learner_step": step,
            "policy_version": step,
            "reward": -0.05 + 1.1 * done**0.7 + 0.15 * noise[0],
            "reward_std": 1.4 - 0.3 * done,
            "reward_text_adherence": 0.32 + 0.11 * done + 0.02 * noise[1],
            "reward_quality": 3.6 + 0.4 * done + 0.05 * noise[2],
            "kl": 0.03 * done,
            "kl_clip": 9.0 * done**1.2 + 0.2 * np.abs(noise[3]) * done,
            "entropy": 2.9 - 0.3 * done + 0.02 * noise[4],
            "value_loss": 0.9 * np.exp(-4 * done) + 0.5 + 0.05 * np.abs(noise[5]),
            "staleness": np.zeros(steps),
            "staleness_max": np.zeros(steps),
            "seconds_sample": np.full(steps, 0.52),
            "seconds_decode": np.full(steps, 0.21),
            "seconds_score": np.full(steps, 0.18),
            "seconds_learn": np.full(steps, 0.83),
            "seconds_publish": np.full(steps, 0.03),
            "seconds_evaluate": np.where(step % 50 == 0, 9.0, 0.0),
            "seconds_other": np.full(steps, 0.04),
            "seconds_step": 1.81 + np.where(step % 50 == 0, 9.0, 0.0),
        }
    )


def _rows(step: int, done: float, prompts: int, scored: dict[str, tuple[float, float, float]]) -> pa.Table:
    scores = {}
    for number, (name, (mean, spread, rise)) in enumerate(scored.items()):
        shared = np.random.default_rng([number, prompts]).normal(size=prompts)
        fresh = np.random.default_rng([number, prompts, step]).normal(size=prompts)
        scores[name] = mean + rise * done**0.7 + spread * (0.6 * shared + 0.8 * fresh)
    texts = [PROMPTS[i % len(PROMPTS)] for i in range(prompts)]
    return rows_table(step, range(prompts), texts, range(1000, 1000 + prompts), scores, REWARDS)


def _samples(
    directory: Path, step: int, done: float, count: int, scored: dict[str, tuple[float, float, float]]
) -> None:
    pcm = np.stack([_sound(i, 0.12 * (1 - done)) for i in range(count)])[:, None]
    clips = Clips(tuple(range(count)), PROMPTS[:count], tuple(range(count)), np.empty((count, 0, 0)), pcm, 16_000)
    scores = {name: np.full(count, mean + rise * done) for name, (mean, _, rise) in scored.items()}
    write_samples(directory, step, clips, scores)


def _sound(number: int, noise: float) -> np.ndarray:
    """Four seconds of decaying notes at 16 kHz, with noise."""
    rng = np.random.default_rng(number)
    time_s = np.arange(64_000) / 16_000
    pcm = noise * rng.normal(size=64_000)
    for start_s in np.arange(0, 4, 0.25 * (1 + number % 3)):
        since = time_s - start_s
        pitch_hz = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12]) / 12)
        tone = sum(np.sin(2 * np.pi * pitch_hz * h * since) / h for h in (1, 2, 3, 4))
        pcm += np.where(since > 0, 0.2 * np.exp(-5 * since.clip(0)) * tone, 0)
    return pcm.clip(-1, 1).astype(np.float32)


def _summary() -> dict:
    return {
        "kl": {"clip": interval(17.6, 0.5), "token": 0.035, "seconds": 4.0},
        "positions": {
            "text_adherence": {
                "base": interval(0.41, 0.03),
                "result": interval(0.62, 0.03),
                "real": 0.8,
                "shuffled": 0.0,
            },
            "second_text_audio": {
                "base": interval(0.35, 0.03),
                "result": interval(0.5, 0.04),
                "real": 0.8,
                "shuffled": 0.0,
            },
            "attributes": {"base": interval(0.44, 0.02), "result": interval(0.58, 0.02), "real": 0.9, "shuffled": 0.3},
            "quality": {"real": 4.6, "shuffled": 4.6},
        },
        "diversity": {
            "base": interval(0.71, 0.02),
            "result": interval(0.55, 0.02),
            "real": interval(0.31, 0.03),
            "ratio_to_base": interval(0.77, 0.02),
            "ratio_to_real": interval(1.77, 0.2),
        },
        "frechet": {"base": 0.062, "result": 0.047, "change": interval(-0.015, 0.006), "verdict": "falls"},
    }


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}
