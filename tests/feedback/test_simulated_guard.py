"""The proof of the guard: verdicts on curves whose truth is known, its page, and one small study end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import UserError
from evaluation.data_table import read_csv
from evaluation.guard import Watch
from evaluation.over_optimisation import Alarm, History, Proposal
from feedback.simulated_guard import GuardSettings, check, main, numbers_of
from feedback.simulated_guard_report import write_report
from feedback.simulated_guard_runs import Watched
from feedback.simulated_verdict import gain_curve, verdict_of
from tests.feedback.test_study import ROOT, RUN_WORDS, kill_at
from tests.system.tiny_world import build_tiny_world

STEPS = (0, 10, 20, 30, 40)


def hidden(means: tuple[float, ...], prompts: int = 400, noise: float = 0.05) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    own = rng.standard_normal(prompts)
    return {s: m + own + noise * rng.standard_normal(prompts) for s, m in zip(STEPS, means, strict=True)}


def test_peak_and_loss_by_hand():
    curve = gain_curve(hidden((1.0, 1.5, 2.0, 1.97, 1.9)))
    verdict = verdict_of("a", True, curve, (30, "falls"), 20)
    assert (verdict.peak_step, verdict.lost_step) == (20, 40)  # 3 % at 30, 10 % at 40
    assert verdict.peak == pytest.approx(1.0, abs=0.02) and verdict.proposed == verdict.peak
    assert verdict.lost == pytest.approx(0.9, abs=0.02) and verdict.lost_se == pytest.approx(0.0035, rel=0.2)
    assert verdict.in_time is True


def test_an_alarm_at_the_loss_is_too_late_and_none_is_later():
    curve = gain_curve(hidden((1.0, 1.5, 2.0, 1.97, 1.9)))
    assert verdict_of("a", True, curve, (40, "falls"), 20).in_time is False
    assert verdict_of("a", True, curve, None, 20).in_time is False


def test_a_dip_within_the_noise_is_no_loss_but_told():
    scores = {step: np.full(100, mean) for step, mean in zip(STEPS, (1.0, 2.0, 1.93, 1.99, 1.98), strict=True)}
    scores[20] = scores[20] + 0.5 * np.tile([1.0, -1.0], 50)  # 7 % below, with a standard error of 5 %
    curve = gain_curve(scores)
    verdict = verdict_of("a", True, curve, None, None)
    assert (verdict.peak_step, verdict.lost_step, verdict.in_time) == (10, None, None)
    assert verdict.below_step == 20 and verdict.before_mean is False


def test_a_loss_counts_although_it_is_made_good_later():
    curve = gain_curve(hidden((1.0, 1.8, 1.5, 1.9, 2.2)))
    verdict = verdict_of("a", True, curve, (20, "falls"), None)
    assert (verdict.peak_step, verdict.lost_step, verdict.in_time) == (10, 20, False)


def test_a_run_that_never_gains_has_lost_nothing():
    assert gain_curve(hidden((1.0, 0.9, 0.8, 0.7, 0.6))).lost_row() is None


def test_prompts_that_were_not_scored_are_left_out():
    scores = hidden((1.0, 1.5, 2.0, 1.97, 1.9))
    scores[20][:10] = np.nan
    assert gain_curve(scores).gain.shape == (5, 390)


def watched(name: str, over: bool, means: tuple[float, ...], alarm: int | None, folder: Path) -> Watched:
    noise = np.random.default_rng(1).standard_normal((1, 32))
    rising = np.linspace(0, 2, 5)[:, None] + noise
    history = History(np.array(STEPS), rising, {"second_preference": rising}, np.zeros(5))
    alarms = (Alarm(alarm, "falls", "held-out judges", "words", alarm),) if alarm is not None else ()
    found = Watch(history, alarms, Proposal(20, 20, "because"), (20,))
    return Watched(name, over, folder, found, hidden(means))


def test_the_page_says_what_came_first(tmp_path):
    turn = (1.0, 1.5, 2.0, 1.97, 1.9)
    runs = [
        watched("over_0", True, turn, 30, tmp_path),
        watched("over_1", True, turn, 40, tmp_path),
        watched("over_2", True, (1.0, 1.5, 1.6, 1.7, 1.8), None, tmp_path),
        watched("U", False, (1.0, 1.2, 1.4, 1.6, 1.8), None, tmp_path),
        watched("R", False, (1.0, 1.2, 1.4, 1.6, 1.8), 30, tmp_path),
    ]
    page = write_report(runs, GuardSettings(out=str(tmp_path / "out"))).read_text()
    assert "came before 5 % were lost in 1 of 2 over-trained runs" in page
    assert "1 more never lost so much" in page
    assert "silent on 1 of 2 healthy runs" in page
    table = {row["run"]: row for row in read_csv(tmp_path / "out" / "runs.csv").to_pylist()}
    assert table["over_0"]["in_time"] and not table["over_1"]["in_time"] and table["over_2"]["in_time"] is None
    assert (tmp_path / "out" / "guard.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_cannot_be_used_are_told():
    for wrong, word in (
        ({"seeds": "0,0"}, "seeds: got '0,0'"),
        ({"policy": "/nowhere"}, "policy: got '/nowhere'"),
        ({"n": 10_000}, "n: got 10000"),
        ({"votes": "/nowhere.parquet"}, "votes: got"),
    ):
        with pytest.raises(UserError, match=word):
            check(GuardSettings(**wrong))
    assert numbers_of("3,1", "seeds") == [3, 1]
    assert main(["seedz=1"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_proof_killed_once(tmp_path):
    """A random small world: its figures mean nothing, but every stage runs and is taken up again after a kill."""
    world = build_tiny_world(tmp_path / "world")
    prompts = [f"{pace} {lead} song {i}" for i in range(20) for pace in ("slow", "fast") for lead in ("piano", "flute")]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    (tmp_path / "eval.txt").write_text("\n".join(f"{prompt} bright" for prompt in prompts[:20]))
    words = {
        "out": tmp_path / "docs",
        "work": tmp_path / "work",
        "policy": world.folder / "policy",
        "codec": world.folder / "codec",
        "prompts": tmp_path / "prompts.txt",
        "eval_prompts": tmp_path / "eval.txt",
        "skip": 4,
        "n": 10,
        "pairs": 160,
        "seconds": 1,
        "model_steps": 4,
        "seeds": "3",
        "every": 1,
        "healthy": "",
        "over": f"{RUN_WORDS} learner.alpha=0",
    }
    line = [sys.executable, "-m", "feedback.simulated_guard", *(f"{key}={value}" for key, value in words.items())]
    kill_at(line, "guard: preference model, second half begins")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "guard: votes is finished" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1] == f"guard: {tmp_path / 'docs' / 'README.md'}"
    curves = read_csv(tmp_path / "docs" / "curves.csv").to_pylist()
    assert {row["learner_step"] for row in curves} == {0, 1, 2, 3}
    assert {row["curve"] for row in curves} >= {"training reward", "second preference model"}
    assert [row["run"] for row in read_csv(tmp_path / "docs" / "runs.csv").to_pylist()] == ["over_3"]
