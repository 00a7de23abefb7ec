"""The entry point: exit status, one line on stderr, nothing heavy before the config is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import RunFailed, UserError
from configs.paths import PROJECT_ROOT
from learner import main as entry


def test_a_wrong_key_ends_with_status_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "learner.main", "learner.step=3"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: learner.step: unknown key, did you mean learner.steps?\n"


def test_a_missing_prompt_file_is_answered_before_torch_or_ray_load(tmp_path: Path):
    code = (
        "import sys; from learner.main import main; status = main(sys.argv[1:]); "
        "print(status, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"run.dir={tmp_path}/run", "prompts.train=nowhere.txt"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "2 False False\n", done.stderr
    assert done.stderr == "error: prompts.train: nowhere.txt does not exist\n"
    assert not (tmp_path / "run").exists()


def test_help_lists_the_keys_and_ends_well(capsys: pytest.CaptureFixture[str]):
    assert entry.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "learner.steps=300" in out and "tiny_r" in out and "run.resume=runs/NAME" in out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a.b: got 1,\nallowed 2"), 2, "error: a.b: got 1, allowed 2\n"),
        (RunFailed("the learner died"), 1, "error: the learner died\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_each_bad_end_has_its_status(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(words: object) -> None:
        raise error

    monkeypatch.setattr(entry, "_run", fail)
    assert entry.main([]) == status
    assert capsys.readouterr().err == line
