"""The small disk of the faults, and what is said of one that cannot be written to before a run starts."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import UserError
from configs.schema import StorageConfig
from learner.run_folder import RunFolder
from tests.faults.disk import Disk, small_disk, unavailable


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if reason := unavailable(tmp_path):
        pytest.skip(reason)
    with small_disk(tmp_path) as disk:
        disk.run_dir.mkdir()
        yield disk


def test_a_full_disk_takes_what_is_left_and_no_more_until_it_is_mended(disk: Disk) -> None:
    disk.fill(8192)
    (disk.run_dir / "page").write_bytes(b"x" * 4096)
    with pytest.raises(OSError) as caught:
        (disk.run_dir / "more").write_bytes(b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    disk.mend()
    (disk.run_dir / "more").write_bytes(b"x" * 100_000)
    assert shutil.disk_usage(disk.run_dir).free > 200_000_000


def test_a_run_that_cannot_write_is_refused_before_it_starts(disk: Disk) -> None:
    manifest = disk.run_dir / "checkpoints" / "step_0" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    RunFolder(disk.run_dir, "run.resume").check_resumable(StorageConfig())
    disk.make_read_only()
    with pytest.raises(UserError, match="cannot be written to"):
        RunFolder(disk.run_dir / "new").check_new()
    with pytest.raises(UserError, match=r"run\.resume: got .* cannot be written to"):
        RunFolder(disk.run_dir, "run.resume").check_resumable(StorageConfig())
    disk.mend()
    RunFolder(disk.run_dir / "new").check_new()
