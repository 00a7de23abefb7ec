"""The whole loop on a random small world: its figures mean nothing, but each stage runs, is killed, and is taken up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feedback.published import PublishedPolicies
from rewards.preference_registry import Registry
from tests.feedback.test_study import RUN_WORDS, kill_at
from tests.system.tiny_world import ROOT, build_tiny_world

STAGES = ("collect", "reward", "tune", "publish", "simulated utility")


def words_of(folder: Path, work: Path) -> list[str]:
    """`python -m feedback.loop` on the small world in `folder`."""
    words = {
        "work": work,
        "policy": folder / "policy",
        "base": folder / "base",
        "codec": folder / "codec",
        "prompts": folder / "prompts.txt",
        "eval_prompts": folder / "loop_eval.txt",
        "seconds": 1,
        "votes_per_round": 260,
        "gate": "off",
        "skip": 8,
        "n": 12,
        "jobs": 1,
        "preference_words": "steps=4 eval_every=2 batch_size=8 hidden=8",
        "run_words": RUN_WORDS,
    }
    return [sys.executable, "-m", "feedback.loop", *(f"{key}={value}" for key, value in words.items())]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_tiny_world(folder)
    build_tiny_world(folder / "other", seed=1)
    (folder / "other" / "policy").rename(folder / "base")
    prompts = [
        f"{tempo} {lead} song {i}" for i in range(50) for tempo in ("slow", "fast") for lead in ("piano", "flute")
    ]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    (folder / "loop_eval.txt").write_text("\n".join(f"{prompt} bright" for prompt in prompts[:20]))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_in_every_stage_it_ends_where_it_would_have_ended(world: Path, tmp_path: Path) -> None:
    whole, killed = words_of(world, tmp_path / "whole"), words_of(world, tmp_path / "killed")
    finish(whole)
    for stage in ("start", *(f"round 1: {stage}" for stage in STAGES), "round 2: tune"):
        kill_at(killed, f"loop: {stage} begins", pause_s=0.2 if stage in ("start", "round 1: publish") else 3.0)
    said = finish(killed)
    assert "loop: round 1: publish is finished" in said
    one, other = (outcome(tmp_path / name) for name in ("whole", "killed"))
    assert one == other
    assert len(one["published"]) == 4 and len(set(one["serving"])) == 3
    assert len({row["vote_id"] for rows in one["votes"] for row in rows}) == sum(map(len, one["votes"])) > 400
    report = (tmp_path / "killed" / "README.md").read_text()
    assert "| 2 | " in report and "no person listened" in report
    assert_again_does_nothing(killed)


def finish(line: list[str]) -> str:
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def assert_again_does_nothing(line: list[str]) -> None:
    said = finish(line)
    assert " begins" not in said


def outcome(work: Path) -> dict[str, Any]:
    """What two loops must have in common: votes, versions, utilities; not times and folders."""
    published, registry = PublishedPolicies(work / "published"), Registry(work / "registry")
    votes = [pq.read_table(work / f"round_{number}" / "votes.parquet").to_pylist() for number in (1, 2)]
    heard = {path.stem: pq.read_table(path).to_pylist() for path in (work / "simulated_utility").glob("*.parquet")}
    return {
        "published": [(entry.version, entry.parent) for entry in published.entries()],
        "current": published.current(),
        "serving": [entry.version for entry in registry.entries()] + [registry.current_version + " serves"],
        "votes": votes,
        "heard": heard,
    }
