"""The folder of a run: made once, never overwritten, written by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.errors import UserError
from configs.load import load_config, load_stored
from configs.paths import PROJECT_ROOT
from learner.run_folder import RunFolder, default_run_dir

_CHECK_AS_OTHER = """
import os, sys
from learner.run_folder import RunFolder, UserError
os.getuid() or os.setuid(65534)  # the superuser may write anywhere
try:
    RunFolder(sys.argv[1]).check_new()
except UserError as error:
    print(error)
"""


def test_create_makes_the_folder_with_its_config(tmp_path: Path):
    config = load_config([f"run.dir={tmp_path}/new/run", "learner.steps=3"])
    folder = RunFolder.create(config)
    assert folder.path == tmp_path / "new" / "run"
    assert folder.replay.is_dir() and folder.checkpoints.is_dir() and folder.samples.is_dir()
    assert load_stored(folder.path).learner.steps == 3
    folder.close()


def test_without_a_name_the_folder_is_named_by_preset_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = load_config([])
    folder = RunFolder.create(config)
    assert folder.path.parent == tmp_path / "runs" and folder.path.name.startswith("tiny_r-20")
    assert config.run.dir == str(folder.path)
    assert Path(default_run_dir(config)).absolute() != folder.path
    folder.close()


def test_a_folder_with_anything_in_it_is_never_overwritten(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="which is not empty; allowed a new or empty folder"):
        RunFolder.create(load_config([f"run.dir={tmp_path}"]))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_or_a_place_below_one_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run"):
        with pytest.raises(UserError, match=r"^run.dir: "):
            RunFolder(tmp_path / place).check_new()


@pytest.mark.parametrize("place", ["locked/run", "locked/hidden/run"])
def test_a_place_that_may_not_be_written_is_refused(place: str):
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        os.chmod(base, 0o755)
        os.makedirs(f"{base}/locked/hidden")
        os.chmod(f"{base}/locked/hidden", 0o700 if os.getuid() == 0 else 0)
        os.chmod(f"{base}/locked", 0o555)
        answer = subprocess.run(
            [sys.executable, "-c", _CHECK_AS_OTHER, f"{base}/{place}"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=PROJECT_ROOT,
        )
        os.chmod(f"{base}/locked", 0o755)
    assert answer.stdout.startswith("run.dir: got ") and "cannot be" in answer.stdout, answer.stderr


def test_two_processes_cannot_write_one_folder(tmp_path: Path):
    config = load_config([f"run.dir={tmp_path}/run"])
    first = RunFolder.create(config)
    config.run.resume = config.run.dir
    with pytest.raises(UserError, match=r"in use by process \d+ on .*, which still runs"):
        RunFolder.reopen(config)
    first.close()
    RunFolder.reopen(config).close()


def test_the_lock_ends_with_its_process(tmp_path: Path):
    code = (
        "import os, sys; from configs.load import load_config; from learner.run_folder import RunFolder; "
        "folder = RunFolder.create(load_config([f'run.dir={sys.argv[1]}'])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], cwd=PROJECT_ROOT, timeout=60)
    config = load_config([f"run.dir={tmp_path}/run"])
    config.run.resume = config.run.dir
    RunFolder.reopen(config).close()


def test_checkpoints_are_listed_by_their_step(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_steps() == []
    for name in ("step_10", "step_9", "step_0", "step_11.tmp", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert folder.checkpoint_steps() == [0, 9, 10]
