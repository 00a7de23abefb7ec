"""The study: what it refuses, that finished stages stay so, what its summary says; and all of it on a tiny world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from cluster.errors import RunFailed, UserError
from evaluation.data_table import read_csv
from evaluation.ratings import compare_systems
from feedback.ledger import Ledger
from feedback.study import main
from feedback.study_settings import StudySettings
from feedback.study_stages import OVER, SYSTEMS, Stages, run_folder
from feedback.study_summary import orderings
from tests.evaluation.test_compare import ratings
from tests.system.tiny_world import ROOT, build_tiny_world


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("policy=nowhere", "policy: got 'nowhere'"),
        ("pairs_temperature=0.99", "the tuned policy itself"),
        ("agreement=70", "agreement: got 70, allowed 60 or 75"),
        ("skip=500", "n: got 101, allowed at most the 12"),
        ("skip=few", "skip: got 'few'"),
        ("gate=maybe", "gate: got 'maybe'"),
        ("colour=red", "colour: unknown key"),
    ],
)
def test_says_what_is_wrong_before_anything_starts(word, problem, tmp_path, capsys):
    assert main([word, f"work={tmp_path}/work"]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and not (tmp_path / "work").exists()


def test_a_finished_stage_is_not_done_again(tmp_path):
    done = []
    Ledger(tmp_path, StudySettings()).stage("one", lambda: done.append(1))
    again = Ledger(tmp_path, StudySettings(jobs=1, out="elsewhere"))  # places and jobs may change
    again.stage("one", lambda: done.append(2))
    again.stage("two", lambda: done.append(3))
    assert done == [1, 3] and set(again.notes["stages"]) == {"one", "two"}


def test_a_failed_stage_is_not_noted(tmp_path):
    ledger = Ledger(tmp_path, StudySettings())
    with pytest.raises(RunFailed, match=r"models: ended with status 3, see .*models.log; the same command goes on"):
        ledger.stage("models", lambda: ledger.command("models", ["tests.feedback.ends_badly"]))
    assert not json.loads(ledger.path.read_text())["stages"]
    assert "something broke" in (tmp_path / "logs" / "models.log").read_text()


def test_side_by_side_finishes_what_it_can(tmp_path):
    ledger = Ledger(tmp_path, StudySettings())

    def fails() -> None:
        raise RunFailed("broken")

    with pytest.raises(RunFailed, match="broken"):
        ledger.side_by_side({"bad": fails, "good": lambda: None}, 2)
    assert set(ledger.notes["stages"]) == {"good"}


def test_other_settings_are_refused(tmp_path):
    Ledger(tmp_path, StudySettings(pairs=100))
    with pytest.raises(UserError, match=r"pairs: got 200, but .* was begun with 100"):
        Ledger(tmp_path, StudySettings(pairs=200))


def test_each_run_starts_where_the_paper_says(tmp_path):
    stages = Stages(StudySettings(work=str(tmp_path)))
    runs = stages.runs()
    assert list(runs) == ["R", "U", "RU", "joint", *OVER]
    assert "rewards.preference.weight=0" in runs["R"]() and "learner.alpha=0" in runs[OVER[1]]()
    assert any(word.startswith("rewards.preference.checkpoint=registry:") for word in runs["U"]())
    with pytest.raises(RunFailed, match="R: no complete checkpoint"):
        runs["RU"]()
    newest = run_folder(stages.settings, "R") / "checkpoints" / "step_300"
    newest.mkdir(parents=True)
    (newest / "manifest.json").write_text("{}")
    assert f"policy.checkpoint={newest}/policy" in runs["RU"]()


def marks(order: tuple[str, ...], gap: int = 1):
    """Ratings in which each later system of `order` is marked `gap` higher than the one before it."""
    rows = [
        (f"p{i}", one, other, 1, 1 + gap * (order.index(other) - order.index(one)))
        for i in range(30)
        for one in order
        for other in order[order.index(one) + 1 :]
    ]
    return compare_systems(ratings(rows), list(order))


def accuracies(full: float = 0.68) -> list[dict[str, object]]:
    rows = {
        "preference model, full": full,
        "preference model, from scratch": 0.5,
        "preference model, half the clip": 0.6,
        "higher text_adherence": 0.52,
        "higher quality": 0.54,
        "best possible, listener unknown": 0.69,
    }
    return [{"name": n, "expected": v, "expected_low": v - 0.01, "expected_high": v + 0.01} for n, v in rows.items()]


def test_orderings_that_hold():
    found = orderings(marks(SYSTEMS), accuracies())
    assert len(found) == 11 and all(found.values())


def test_orderings_that_do_not_hold():
    found = orderings(marks(("base", "joint", "RU", "U", "R")), accuracies(0.53))
    failed = {name for name, holds in found.items() if not holds}
    assert failed == {
        "RU has the highest mean mark",
        "RU wins against R at least as often as it loses",
        "RU wins against U at least as often as it loses",
        "preference model within 2 points of the best accuracy",
        'preference model above "higher text_adherence"',
        'preference model above "higher quality"',
        "preference model above half the clip",
    }
    level = orderings(marks(SYSTEMS, gap=0), accuracies())
    assert not level["R beats the base significantly"] and level["RU wins against R at least as often as it loses"]


RUN_WORDS = (
    "learner.steps=3 learner.cpus=1 actors.generators=1 learner.batch_size=8 learner.micro_batch_size=4 "
    "actors.rollout_size=4 sampling.seconds=0.32 evaluation.every=1 evaluation.prompts=4 evaluation.seconds=0.4 "
    "evaluation.samples=1 evaluation.batch_size=4 evaluation.judges= run.checkpoint_every=1 learner.warmup_steps=0"
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whole_study_killed_in_several_stages(tmp_path):
    """A random small world: its figures mean nothing, but every stage runs and is taken up again after a kill."""
    world = build_tiny_world(tmp_path / "world")
    prompts = [
        f"{tempo} {lead} song {i}" for i in range(20) for tempo in ("slow", "fast") for lead in ("piano", "flute")
    ]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    (tmp_path / "eval.txt").write_text("\n".join(f"{prompt} bright" for prompt in prompts[:20]))
    words = {
        "out": tmp_path / "docs",
        "work": tmp_path / "work",
        "policy": world.folder / "policy",
        "codec": world.folder / "codec",
        "prompts": tmp_path / "prompts.txt",
        "eval_prompts": tmp_path / "eval.txt",
        "skip": 8,
        "n": 10,
        "pairs": 160,
        "seconds": 1,
        "gate": "false",
        "preference_words": "steps=4 eval_every=2 batch_size=8 hidden=8",
        "run_words": RUN_WORDS,
    }
    line = [sys.executable, "-m", "feedback.study", *(f"{key}={value}" for key, value in words.items())]
    for stage in ("pairs begins", "preference model, half the clip begins", "run U begins", "raters begins"):
        kill_at(line, f"study: {stage}")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "study: pairs is finished" in done.stdout and "study: run R is finished" in done.stdout
    place = tmp_path / "docs" / "seed_0"
    for name in ("wins", "accuracy", "rewards", "over_optimisation"):
        assert len(read_csv(place / f"{name}.csv")) and (place / f"{name}.png").stat().st_size > 5000
    assert len(pq.read_table(place / "ratings.parquet")) == 10 * 3 * 10
    assert "Which orderings hold" in (tmp_path / "docs" / "README.md").read_text()


def kill_at(line: list[str], text: str, pause_s: float = 2.0) -> None:
    """Kills the command and all its children a moment after it says `text`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if text in said:
                time.sleep(pause_s)  # into the stage
                break
        os.killpg(process.pid, signal.SIGKILL)
