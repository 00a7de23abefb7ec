"""What a row costs on its way through the replay store: insert, sample, commit, and opening a store after a crash.

    python -m benchmarks.replay [rows=32] [frames=50] [streams=5] [tasks=200] [directory=DIR]

`fsync` is the same bytes written and synced to a bare file: the floor that durability sets on this disk. An insert's
own work is the difference. Rounds take turns, so that a busy moment of the machine hits both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actors.records import RolloutTask, ScoredRollout
from actors.replay import ReplayStore
from actors.rows import encode
from policy.port import SamplingSettings
from rewards.port import ScoreStatus, ScoreTable


def main(arguments: list[str]) -> None:
    options: dict[str, str] = {"rows": "32", "frames": "50", "streams": "5", "tasks": "200", "directory": ""}
    options |= dict(argument.split("=", 1) for argument in arguments)
    rows, frames, streams, tasks = (int(options[name]) for name in ("rows", "frames", "streams", "tasks"))
    with tempfile.TemporaryDirectory(dir=options["directory"] or None) as folder:
        seconds, row_bytes = _measure(Path(folder), rows, frames, streams, tasks)
    print(f"{rows} rows of {streams} x {frames} tokens a task ({row_bytes} bytes a row), {tasks} tasks,")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs\n")
    print("| part | median ms | 10 % .. 90 % | us a row |\n|---|---|---|---|")
    for name, values in seconds.items():
        low, high = np.percentile(values, [10, 90]) * 1e3
        middle = statistics.median(values)
        print(f"| {name} | {middle * 1e3:.2f} | {low:.2f} .. {high:.2f} | {middle / rows * 1e6:.1f} |")


def _measure(folder: Path, rows: int, frames: int, streams: int, tasks: int) -> tuple[dict[str, list[float]], int]:
    store = ReplayStore(folder / "replay", "benchmark", max_bytes=2**40)
    seconds: dict[str, list[float]] = defaultdict(list)
    size = len(encode(_scored(0, rows, frames, streams), 0).serialize())
    for task in range(tasks):
        item = _scored(task, rows, frames, streams)
        with open(folder / "bare", "ab") as bare:
            _timed(seconds["fsync"], _write_and_sync, bare.fileno(), bytes(size))
        _timed(seconds["encode"], encode, item, 0)
        _timed(seconds["insert"], store.insert, item)
        batch = _timed(seconds["sample"], store.sample, rows)
        _timed(seconds["commit"], store.commit, batch.row_ids, task + 1)
        _timed(seconds["stats"], store.stats)
    for _ in range(5):
        _timed(seconds[f"open {tasks * rows} rows"], ReplayStore, folder / "replay", "benchmark")
    return seconds, size // rows


def _write_and_sync(handle: int, content: bytes) -> None:
    os.write(handle, content)
    os.fsync(handle)


def _timed(into: list[float], work: Callable[..., Any], *arguments: Any) -> Any:
    begin = time.perf_counter()
    result = work(*arguments)
    into.append(time.perf_counter() - begin)
    return result


def _scored(task: int, rows: int, frames: int, streams: int) -> ScoredRollout:
    rng = np.random.default_rng(task)
    prompts = tuple(f"a slow tune for piano and flute, number {row}" for row in range(rows))
    codes = rng.integers(0, 256, size=(rows, streams, frames)).astype(np.uint16)
    log_probs = -rng.random((rows, streams, frames), dtype=np.float32)
    scores = {name: rng.random(rows, dtype=np.float32) for name in ("text_adherence", "quality")}
    status: tuple[ScoreStatus, ...] = tuple("ok" for _ in range(rows))
    table = ScoreTable(scores, dict.fromkeys(scores, status), dict.fromkeys(scores, "0123abcd"))
    plan = RolloutTask(task, prompts, tuple(range(rows)), frames, SamplingSettings())
    return ScoredRollout(plan, "benchmark", 0, codes, log_probs, table, rng.random(rows, dtype=np.float32), {})


if __name__ == "__main__":
    main(sys.argv[1:])
