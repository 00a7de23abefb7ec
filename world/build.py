"""Builds the corpus from nothing: tunes, arrangements, sound, captions. Seeded and resumable shard by shard."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world.arrangement import Arrangement, arrange
from world.attributes import ATTRIBUTES, Attributes, draw_attributes
from world.captions import caption
from world.render import CLIP_SAMPLES, find_soundfont, render
from world.tunes import Tune, load_tunes, split_by_tune

SPLIT_SHARES = {"train": 0.60, "judge": 0.25, "valid": 0.05, "test": 0.10}
SPLIT_CLIPS = {"train": 5500, "judge": 2200, "valid": 400, "test": 900}
SHARD_CLIPS = 100


@dataclass(frozen=True)
class ClipPlan:
    """What a clip will be, before anything is rendered."""

    clip_id: str
    split: str
    tune: Tune
    attributes: Attributes
    seed: tuple[int, int]

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((*self.seed, purpose))


def build_corpus(directory: str | Path, scale: float = 1.0, seed: int = 0, workers: int = 2) -> Path:
    """Make `directory`/{tunes.json, pcm.npy, clips.parquet, notes.parquet}; finished parts are kept.

    `scale` multiplies the number of clips (and, below 0.2, of tunes): small worlds for tests.
    Raises UserError where the synthesiser or its soundfont is not installed.
    """
    folder = Path(directory)
    soundfont = find_soundfont()
    tunes = load_tunes(folder / "tunes.json", workers, None if scale >= 0.2 else max(24, int(2000 * scale)))
    plans = plan_clips(tunes, scale, seed)
    _check_same_plan(folder, plans)
    if not (folder / "pcm.npy").exists():
        _render_shards(folder, plans, soundfont, workers)
        _join_shards(folder, len(plans))
    if not (folder / "notes.parquet").exists():
        _write_notes(folder / "notes.parquet", plans)
    _write_table(folder / "clips.parquet", plans)
    print(f"corpus: {len(plans)} clips of 4 s in {folder}", flush=True)
    return folder


def plan_clips(tunes: list[Tune], scale: float, seed: int) -> list[ClipPlan]:
    """Which tune with which attributes, clip by clip; the tunes of a split are gone through evenly."""
    splits = split_by_tune(tunes, SPLIT_SHARES, np.random.default_rng((seed, 1)).shuffle)
    plans: list[ClipPlan] = []
    for split, count in SPLIT_CLIPS.items():
        for index in range(max(8, round(count * scale))):
            clip_seed = (seed, len(plans))
            rng = np.random.default_rng((*clip_seed, 0))
            tune = splits[split][index % len(splits[split])]
            plans.append(ClipPlan(f"{split}-{index:05d}", split, tune, draw_attributes(rng), clip_seed))
    return plans


def arrangement_of(plan: ClipPlan) -> Arrangement:
    """The plan's music; the same each time it is asked for."""
    return arrange(plan.tune, plan.attributes, plan.rng(1))


def _check_same_plan(folder: Path, plans: list[ClipPlan]) -> None:
    """Parts of another plan (other scale, seed, tunes) are dropped, not mixed."""
    digest = hashlib.sha256(json.dumps([asdict(plan) for plan in plans]).encode()).hexdigest()
    mark = folder / "plan.sha256"
    if mark.exists() and mark.read_text() != digest:
        for stale in [*folder.glob("shard_*.npy"), *folder.glob("*.parquet"), *folder.glob("pcm.npy")]:
            stale.unlink()
    mark.write_text(digest)


def _render_shards(folder: Path, plans: list[ClipPlan], soundfont: Path, workers: int) -> None:
    todo = [
        (folder / f"shard_{first // SHARD_CLIPS:04d}.npy", plans[first : first + SHARD_CLIPS], soundfont)
        for first in range(0, len(plans), SHARD_CLIPS)
        if not (folder / f"shard_{first // SHARD_CLIPS:04d}.npy").exists()
    ]
    started = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_render_shard, *job) for job in todo]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            left = (time.monotonic() - started) / done * (len(jobs) - done)
            print(f"corpus: shard {done}/{len(jobs)}, {left:.0f} s left", flush=True)


def _render_shard(path: Path, plans: list[ClipPlan], soundfont: Path) -> None:
    pcm = render([arrangement_of(plan) for plan in plans], soundfont)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, pcm)
    partial.rename(path)


def _join_shards(folder: Path, clips: int) -> None:
    partial = folder / "pcm.partial.npy"
    joined = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int16, shape=(clips, CLIP_SAMPLES))
    shards = sorted(folder.glob("shard_[0-9]*.npy"))
    for index, shard in enumerate(shards):
        joined[index * SHARD_CLIPS : (index + 1) * SHARD_CLIPS] = np.load(shard)
    joined.flush()
    partial.rename(folder / "pcm.npy")
    for shard in shards:
        shard.unlink()


def _write_notes(path: Path, plans: list[ClipPlan]) -> None:
    """The score of every clip: what sounds when. `roots` are the bars' harmonies (start_s, pitch class, minor)."""
    music = [arrangement_of(plan) for plan in plans]
    table = pa.table(
        {
            "clip_id": [plan.clip_id for plan in plans],
            "notes_per_s": [m.notes_per_s for m in music],
            "notes": [[asdict(note) for note in m.notes] for m in music],
            "roots": [[{"start_s": s, "root": r, "minor": bool(q)} for s, r, q in m.roots] for m in music],
        }
    )
    _write_parquet(path, table)


def _write_table(path: Path, plans: list[ClipPlan]) -> None:
    notes_per_s = pq.read_table(path.with_name("notes.parquet"), columns=["notes_per_s"])["notes_per_s"]
    columns: dict[str, object] = {
        "clip_id": [plan.clip_id for plan in plans],
        "split": [plan.split for plan in plans],
        "tune_id": [plan.tune.tune_id for plan in plans],
        "title": [plan.tune.title for plan in plans],
        "collection": [plan.tune.collection for plan in plans],
    }
    columns |= {name: [plan.attributes[name] for plan in plans] for name in ATTRIBUTES}
    columns["notes_per_s"] = notes_per_s
    columns["caption"] = [caption(plan.attributes, plan.rng(2)) for plan in plans]
    columns["caption_alt"] = [caption(plan.attributes, plan.rng(3)) for plan in plans]
    _write_parquet(path, pa.table(columns))


def _write_parquet(path: Path, table: pa.Table) -> None:
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.rename(path)
