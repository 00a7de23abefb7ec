"""A random-weight world that is built in a second: a small TinyMusicLM, a small magnitude codec, prompts, rewards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from actors.replay_table import read_rows
from cluster.catalogue import is_reproducible
from codec.checkpoint import save_codec
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from policy.checkpoint import save_policy
from policy.port import Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = 32
WORDS = ("slow", "fast", "piano", "flute", "drums", "bright", "dark", "song", "with", "low")
STEP_LIMIT_S = 280


@dataclass(frozen=True)
class TinyWorld:
    """A folder with policy/, codec/ and prompts, and the settings of a run of seconds on them."""

    folder: Path
    limit_s: float = STEP_LIMIT_S  # of a whole run

    def arguments(self, run_dir: Path | str, **settings: Any) -> list[str]:
        """`learner.main` arguments. settings: dots written as two underscores."""
        chosen = {
            "run.dir": run_dir,
            "policy.checkpoint": self.folder / "policy",
            "codec.checkpoint": self.folder / "codec",
            "prompts.train": self.folder / "train.txt",
            "prompts.eval": self.folder / "eval.txt",
            "evaluation.judges": "",
            "evaluation.prompts": 4,
            "evaluation.seconds": 0.4,
            "evaluation.samples": 2,
            "evaluation.batch_size": 4,
            "learner.steps": 6,
            "learner.batch_size": 8,
            "learner.micro_batch_size": 4,
            "learner.learning_rate": 1e-3,
            "learner.warmup_steps": 0,
            "actors.rollout_size": 4,
            "sampling.seconds": 0.32,
            "run.checkpoint_every": 2,
            "metrics.progress": "lines",
        }
        rewards = {
            "rewards.low_tokens.target": "tests.system.simple_rewards:LowTokens",
            "rewards.low_tokens.shift": 0.5,
            "rewards.low_tokens.scale": 0.1,
            "rewards.brightness.target": "tests.system.simple_rewards:Brightness",
            "rewards.brightness.weight": 0.05,
        }
        chosen |= rewards | {name.replace("__", "."): value for name, value in settings.items()}
        return [f"preset={self.folder / 'preset.yaml'}", *(f"{name}={value}" for name, value in chosen.items())]

    def run(self, run_dir: Path | str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A whole run in a process of its own; fails the test unless it ends with exit status 0."""
        done = self.attempt(run_dir, **settings)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def attempt(self, run_dir: Path | str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return run_main(self.arguments(run_dir, **settings), self.limit_s)

    def kill_and_resume(self, run_dir: Path, step: int, **settings: Any) -> None:
        """A run that is killed, all of its processes, once a step is done, and gone on with to its end."""
        process = open_main(self.arguments(run_dir, **settings))
        wait_for_step(process, run_dir, step, self.limit_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = run_main([f"run.resume={run_dir}"], self.limit_s)
        assert done.returncode == 0, f"killed after step {step}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def run_main(arguments: list[str], limit_s: float = STEP_LIMIT_S) -> subprocess.CompletedProcess[str]:
    with open_main(arguments) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, err = process.communicate()
            raise AssertionError(f"still running after {limit_s:g} s\n{out[-3000:]}\n{err[-3000:]}") from None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def open_main(arguments: list[str]) -> subprocess.Popen[str]:
    """`python -m learner.main` as the leader of a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "learner.main", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def build_tiny_world(folder: Path, seed: int = 0) -> TinyWorld:
    torch.manual_seed(seed)
    streams = (Stream("semantic", ENTRIES), Stream("acoustic", ENTRIES), Stream("acoustic", ENTRIES))
    shapes = TinyMusicLMConfig(
        streams=streams,
        max_frames=32,
        temporal_width=32,
        temporal_layers=1,
        temporal_heads=2,
        temporal_hidden=64,
        depth_width=32,
        depth_layers=1,
        depth_heads=2,
        depth_hidden=64,
    )
    save_policy(TinyMusicLM(shapes, TextTokenizer(WORDS, buckets=4, length=6)), folder / "policy")
    codec = MagnitudeCodec(MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=8, levels=2, entries=ENTRIES))
    save_codec(codec, folder / "codec")
    prompts = [f"{pace} {lead} {colour}" for pace in WORDS[:2] for lead in WORDS[2:5] for colour in WORDS[5:7]]
    (folder / "train.txt").write_text("\n".join(prompts) + "\n")
    (folder / "eval.txt").write_text("\n".join(f"{prompt} song" for prompt in prompts) + "\n")
    (folder / "preset.yaml").write_text(json.dumps({"run": {"seed": 3}}))
    return TinyWorld(folder)


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    return pq.read_table(run_dir / "metrics.parquet").to_pylist()


def steps_done(run_dir: Path) -> int:
    """Steps whose row is durable in a run that may still be going on."""
    journal = run_dir / "metrics.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for_step(process: subprocess.Popen[str], run_dir: Path, step: int, limit_s: float = STEP_LIMIT_S) -> None:
    """Returns as soon as that many steps are done. Fails when the run ends before."""
    until = time.monotonic() + limit_s
    while steps_done(run_dir) < step:
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended with {process.returncode} before step {step}\n{out[-3000:]}\n{err[-3000:]}")
        assert time.monotonic() < until, f"step {step} not reached within {limit_s:g} s"
        time.sleep(0.02)


def actor_pids(process: subprocess.Popen[str], name: str) -> list[int]:
    """Processes of the run that are a Ray actor of class `name`."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [child.pid for child in below if _title(child).startswith(f"ray::{name}")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by file and name."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {
        f"{file.relative_to(checkpoint)}:{name}": tensor for file in files for name, tensor in load_file(file).items()
    }


def assert_same_outcome(one: Path, other: Path, last_step: int) -> None:
    """Bit for bit: final tensors, every metric that does not depend on the clock, every evaluation, every sample."""
    final = f"checkpoints/step_{last_step}"
    left, right = tensors_of(one / final), tensors_of(other / final)
    assert left.keys() == right.keys() and len(left) > 10
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert reproducible_rows(one) == reproducible_rows(other)
    evaluations = [pq.read_table(run / "evaluation.parquet").to_pylist() for run in (one, other)]
    assert evaluations[0] == evaluations[1] and evaluations[0]
    for sound in (one / "samples").rglob("*.wav"):
        assert sound.read_bytes() == (other / sound.relative_to(one)).read_bytes()


def reproducible_rows(run_dir: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if is_reproducible(name)} for row in metrics_of(run_dir)]


def check_trained_once(run_dir: Path) -> None:
    """Every row that the store acknowledged and can train was trained in exactly one step, within the staleness bound,
    as the rows of the metrics say; what was not trained waits, was dropped, or has no reward."""
    stored = [row for row in read_rows(run_dir / "replay").to_pylist() if not row["dropped"]]
    assert len({row["row_id"] for row in stored}) == len(stored)
    by_step = Counter(row["trained_step"] for row in stored if row["trained_step"] is not None)
    metrics = metrics_of(run_dir)
    assert by_step == {row["learner_step"]: row["sequences"] for row in metrics}
    staleness = {step: [row["staleness"] for row in stored if row["trained_step"] == step] for step in by_step}
    assert {step: max(each) for step, each in staleness.items()} == {
        row["learner_step"]: row["staleness_max"] for row in metrics
    }
