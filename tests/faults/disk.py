"""A small disk of its own for a run folder: a tmpfs, so that it can be filled and made read-only for real.

Mounting needs the rights of root (a container's root has them where it may mount; `unavailable` says where not).
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.place import Place
from tests.faults.schedule import Fault

BYTES = 420 * 2**20  # the run asks for 200 MB and its own estimate before it starts


MOST_ROOM_BYTES = 150_000  # on a disk that is filled: for some more rows, or for part of a checkpoint


class Disk(Place):
    """A mounted tmpfs with a run folder in it."""

    def __init__(self, mount: Path) -> None:
        super().__init__(str(mount / "run"), mount / "run", roles=("disk",))
        self._mount = mount
        self._ballast = mount / "ballast"
        self._read_only = False

    def strike(self, fault: Fault) -> None:
        if fault.kind == "fill":
            self.fill(int(fault.chance * MOST_ROOM_BYTES))
        else:
            self.make_read_only()

    def fill(self, left_bytes: int) -> None:
        """Takes all space but `left_bytes`, in whole pages, while the run goes on writing."""
        with self._ballast.open("wb") as file:
            while True:
                free = shutil.disk_usage(self._mount).free
                try:
                    os.posix_fallocate(file.fileno(), 0, max(4096, free - left_bytes))
                    return
                except OSError as error:
                    if error.errno != errno.ENOSPC or free <= left_bytes:
                        raise

    def make_read_only(self) -> None:
        """The run folder is shadowed by a read-only view of itself: what is opened from now on cannot be written."""
        _mount("--bind", str(self.run_dir), str(self.run_dir))
        self._read_only = True
        _mount("-o", "remount,bind,ro", str(self.run_dir))

    def mend(self) -> None:
        """Room again, and writable."""
        if self._read_only:
            subprocess.run(["umount", "--lazy", str(self.run_dir)], check=True, capture_output=True)
        self._read_only = False
        self._ballast.unlink(missing_ok=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def unavailable(folder: Path) -> str:
    """Why no disk can be mounted here; empty: one can."""
    try:
        with small_disk(folder):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"cannot mount a tmpfs here: {error}"


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A disk mounted at folder/disk. Raises OSError or CalledProcessError where that is not allowed."""
    mount = folder / "disk"
    mount.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={BYTES}", "none", str(mount))
    disk = Disk(mount)
    try:
        yield disk
    finally:
        disk.mend()
        subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
