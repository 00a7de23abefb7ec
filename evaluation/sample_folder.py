"""`samples/step_N/`: clips to listen to, as 16-bit WAV, with `samples.parquet` beside them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codec.audio import write_wav
from evaluation.clips import Clips

INDEX = "samples.parquet"


@dataclass(frozen=True)
class Sample:
    """One clip of a samples folder."""

    learner_step: int
    prompt_id: int
    prompt: str
    seed: int
    path: Path
    scores: dict[str, float]


def write_samples(run_dir: Path | str, learner_step: int, clips: Clips, scores: dict[str, np.ndarray]) -> Path:
    """Write all clips of one checkpoint; the folder appears whole, and replaces an earlier one of that step."""
    folder = Path(run_dir) / "samples" / f"step_{learner_step}"
    building = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    files = [f"prompt_{i:03d}_seed_{seed}.wav" for i, seed in zip(clips.prompt_ids, clips.seeds, strict=True)]
    for file, pcm in zip(files, clips.pcm, strict=True):
        write_wav(building / file, pcm, clips.sample_rate_hz)
    columns = {
        "prompt_id": np.asarray(clips.prompt_ids, np.int64),
        "prompt": pa.array(clips.prompts, pa.string()),
        "file": pa.array(files, pa.string()),
        "seed": np.asarray(clips.seeds, np.int64),
        **{f"score_{name}": np.asarray(values, np.float32) for name, values in scores.items()},
    }
    pq.write_table(pa.table(columns), building / INDEX)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(building, folder)
    return folder


def sample_steps(run_dir: Path | str) -> list[int]:
    """Checkpoints that have a complete samples folder, in order."""
    found = (Path(run_dir) / "samples").glob(f"step_*/{INDEX}")
    return sorted(int(path.parent.name.removeprefix("step_")) for path in found)


def read_samples(run_dir: Path | str, learner_step: int) -> list[Sample]:
    """The clips of one checkpoint, by prompt."""
    folder = Path(run_dir) / "samples" / f"step_{learner_step}"
    rows = pq.read_table(folder / INDEX).sort_by([("prompt_id", "ascending"), ("seed", "ascending")]).to_pylist()
    return [
        Sample(
            learner_step,
            row["prompt_id"],
            row["prompt"],
            row["seed"],
            folder / row["file"],
            {key.removeprefix("score_"): value for key, value in row.items() if key.startswith("score_")},
        )
        for row in rows
    ]
