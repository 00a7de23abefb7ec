"""Checkpoints: exact round trips, whole or not at all, damage found, pruning."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cluster.errors import RunFailed, UserError
from learner.checkpoint import (
    checkpoint_path,
    damage,
    latest_complete,
    load_checkpoint,
    prune,
    require_complete,
    save_checkpoint,
)
from learner.learner import Learner, tensors_digest
from policy.checkpoint import load_policy
from tests.learner.tiny_learner import SETTINGS, batch, config, learner, tiny_policy

FILES = (
    "policy/model.safetensors",
    "value.safetensors",
    "optimisers.safetensors",
    "learner.json",
    "controller_state.json",
    "manifest.json",
)


def trained(steps: int = 2, **changes: object) -> Learner:
    subject = learner(config(lr_schedule="linear", **changes), steps=10)
    for step in range(steps):
        subject.step(batch(tiny_policy(1), seed=step))
    return subject


def digest(subject: Learner) -> str:
    value = subject.value.state_dict() if subject.value is not None else {}
    return tensors_digest(subject.policy.state_dict()) + tensors_digest(value)


@pytest.mark.parametrize("baseline", ["value", "batch_mean"])
def test_resumed_learner_goes_on_bit_for_bit(tmp_path: Path, baseline: str) -> None:
    uninterrupted = trained(baseline=baseline)
    path = save_checkpoint(tmp_path, 2, uninterrupted, {"next_task": 17, "cursor": [1, 2]}, config())
    resumed = learner(config(lr_schedule="linear", baseline=baseline), steps=10)
    torch.rand(3)  # the random state, too, is the checkpoint's
    assert load_checkpoint(path, resumed) == {"next_task": 17, "cursor": [1, 2]}
    assert resumed.version == 2 and digest(resumed) == digest(uninterrupted)
    for step in range(2, 5):
        data = batch(tiny_policy(1), seed=step)
        first, second = uninterrupted.step(data), resumed.step(data)
        assert str(first) == str(second)  # nan equals nan
    assert digest(resumed) == digest(uninterrupted)


def test_random_state_is_restored(tmp_path: Path) -> None:
    subject = trained()
    path = save_checkpoint(tmp_path, 2, subject, {}, {})
    expected = torch.rand(4)
    torch.rand(100)
    load_checkpoint(path, subject)
    assert torch.equal(torch.rand(4), expected)


def test_policy_folder_is_a_policy_checkpoint_in_full_precision(tmp_path: Path) -> None:
    subject = trained()
    path = save_checkpoint(tmp_path, 2, subject, {}, {})
    exported = load_policy(path / "policy")
    assert tensors_digest(exported.state_dict()) == tensors_digest(subject.policy.state_dict())


def test_step_zero_has_no_optimiser_state_yet(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 0, trained(0), {"next_task": 0}, config())
    fresh = learner(config(lr_schedule="linear"), steps=10)
    assert load_checkpoint(path, fresh) == {"next_task": 0} and fresh.version == 0
    assert json.loads((path / "config.json").read_text())["batch_size"] == 8


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "truncated", "changed"])
def test_damage_is_found_and_passed_over(tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    subject = trained()
    older = save_checkpoint(tmp_path, 2, subject, {}, {})
    newer = save_checkpoint(tmp_path, 10, subject, {}, {})
    assert latest_complete(tmp_path) == newer  # by number, not by name
    file, content = newer / name, (newer / name).read_bytes()
    file.unlink()
    if how == "truncated":
        file.write_bytes(content[:-10])
    elif how == "changed":
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with caplog.at_level(logging.WARNING):
        assert latest_complete(tmp_path) == older
    assert "step_10 passed over" in caplog.text
    with pytest.raises(UserError, match=r"run\.resume: got .*step_10.*allowed"):
        load_checkpoint(newer, subject)


def test_none_is_left(tmp_path: Path) -> None:
    assert latest_complete(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match="with no checkpoints"):
        require_complete(tmp_path)
    path = save_checkpoint(tmp_path, 1, trained(1), {}, {})
    assert require_complete(tmp_path) == path
    (path / "manifest.json").unlink()
    assert latest_complete(tmp_path) is None
    with pytest.raises(UserError, match="with 1 damaged checkpoints"):
        require_complete(tmp_path)


def test_interrupted_save_is_invisible_and_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = trained()
    path = save_checkpoint(tmp_path, 2, subject, {}, {})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("learner.checkpoint._write_manifest", full_disk)
    for step in (3, 4):
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(tmp_path, step, subject, {}, {})
    monkeypatch.undo()
    assert latest_complete(tmp_path) == path
    assert not checkpoint_path(tmp_path, 3).exists()
    save_checkpoint(tmp_path, 3, subject, {}, {})  # over what the interrupted save left
    assert latest_complete(tmp_path) == checkpoint_path(tmp_path, 3)
    assert [p.name for p in prune(tmp_path, keep=3)] == ["step_4.tmp"]


def test_a_disk_that_refuses_is_an_os_error_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """A file that may grow to a page only stands for the full disk; tests/faults has a real one."""
    subject = trained()
    save_checkpoint(tmp_path, 1, subject, {}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_checkpoint(tmp_path, 2, subject, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert latest_complete(tmp_path) == checkpoint_path(tmp_path, 1)
    save_checkpoint(tmp_path, 2, subject, {}, {})
    assert latest_complete(tmp_path) == checkpoint_path(tmp_path, 2)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, trained(1), {"attempt": 1}, {})
    again = trained(2)
    path = save_checkpoint(tmp_path, 2, again, {"attempt": 2}, {})
    assert load_checkpoint(path, again) == {"attempt": 2}
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_2"]


def test_prune_keeps_step_zero_the_newest_and_the_last_complete_one(tmp_path: Path) -> None:
    subject = trained(1)
    for step in (0, 5, 10, 15, 20):
        save_checkpoint(tmp_path, step, subject, {}, {})
    assert [p.name for p in prune(tmp_path, keep=2)] == ["step_5", "step_10"]
    for step in (15, 20):
        (checkpoint_path(tmp_path, step) / "manifest.json").unlink()
    save_checkpoint(tmp_path, 12, subject, {}, {})
    prune(tmp_path, keep=2)
    assert latest_complete(tmp_path) == checkpoint_path(tmp_path, 12)  # older than two damaged ones, and kept


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 2, trained(), {}, {})
    with pytest.raises(RunFailed, match="baseline"):
        load_checkpoint(path, learner(config(baseline="batch_mean")))
    other_reference = Learner(tiny_policy(0), tiny_policy(5), config(), SETTINGS, 10)
    with pytest.raises(RunFailed, match=r"policy\.reference"):
        load_checkpoint(path, other_reference)


SAVER = """
import sys
sys.path.insert(0, {root!r})
from tests.learner.test_checkpoint import trained
from learner.checkpoint import save_checkpoint
subject = trained(1)
print("ready", flush=True)
for step in range(10_000):
    save_checkpoint({run!r}, step, subject, {{"step": step}}, {{}})
"""


@pytest.mark.parametrize("delay_s", [0.05, 0.23])
def test_kill_9_in_mid_save_leaves_only_whole_checkpoints(tmp_path: Path, delay_s: float) -> None:
    root = str(Path(__file__).parents[2])
    code = SAVER.format(root=root, run=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while latest_complete(tmp_path) is None:
        assert process.poll() is None, "the saver died by itself"
        time.sleep(0.01)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    named = [path for path in (tmp_path / "checkpoints").iterdir() if path.suffix != ".tmp"]
    assert named and all(damage(path) is None for path in named)
    subject = learner(config(lr_schedule="linear"), steps=10)
    newest = require_complete(tmp_path)
    assert load_checkpoint(newest, subject)["step"] == max(int(path.name.split("_")[1]) for path in named)
