"""What a mirror remembers of a working folder: which version of each file lies in the store, and of which run it is.

    .mirror.json   {"url": …, "epoch": …, "before": …, "files": {name: [bytes, mtime in ns, inode, ETag]}}

It is a memory only: without it, files are carried over again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.object_store import Stored
from cluster.storage import write_text_atomic

FILE_NAME = ".mirror.json"
_OWNER = "replay/owner.json"  # which process of this machine writes to the store
_FOLDERS_OF_UNITS = ("checkpoints", "samples")


@dataclass(frozen=True)
class Known:
    """One version of a file on this disk."""

    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Known:
        """Raises FileNotFoundError."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


class MirrorState:
    """epoch: of the run that last wrote to this folder; before: of the one that it went on from."""

    def __init__(self, folder: Path, url: str, epoch: str = "", before: str = "") -> None:
        self.url, self.epoch, self.before = url, epoch, before
        self._path = folder / FILE_NAME
        self._files: dict[str, tuple[Known, str]] = {}

    @classmethod
    def load(cls, folder: Path, url: str) -> MirrorState:
        """An empty state where there is none for this URL, or none that can be read."""
        try:
            content = json.loads((folder / FILE_NAME).read_text())
            state = cls(folder, url, content["epoch"], content["before"])
            if content["url"] != url:
                return cls(folder, url)
            state._files = {name: (Known(*entry[:3]), entry[3]) for name, entry in content["files"].items()}
            return state
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return cls(folder, url)

    def begin(self, epoch: str) -> None:
        """A new run goes on with this folder. Durable on return."""
        self.epoch, self.before = epoch, self.epoch
        self.save()

    def is_of(self, epoch: str) -> bool:
        """Whether this folder holds what the run of `epoch` wrote, up to its end. (`before` counts, because the owner
        changes in this file first and in the lease afterwards.)"""
        return bool(epoch) and epoch in (self.epoch, self.before)

    def is_current(self, name: str, file: Known, remote: Mapping[str, Stored]) -> bool:
        """Whether the store holds just this version of a file."""
        known, there = self._files.get(name), remote.get(name)
        return known is not None and there is not None and known == (file, there.etag)

    def is_untouched(self, name: str, file: Known) -> bool:
        """Whether a file is as it was when it last was the same here and there."""
        return name in self._files and self._files[name][0] == file

    def note(self, name: str, file: Known, etag: str) -> None:
        self._files[name] = (file, etag)

    def forget(self, name: str) -> None:
        self._files.pop(name, None)

    def save(self) -> None:
        files = {name: [file.bytes, file.mtime_ns, file.inode, etag] for name, (file, etag) in self._files.items()}
        content = {"url": self.url, "epoch": self.epoch, "before": self.before, "files": files}
        write_text_atomic(self._path, json.dumps(content))


def scan(folder: Path) -> dict[str, Known]:
    """The files that belong to a run, by name; not those that are being made, nor what concerns this machine only."""
    found: dict[str, Known] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_own(name)]
        below = Path(parent).relative_to(folder)
        for file in files:
            name = (below / file).as_posix()
            if _is_own(file) or name.startswith(_OWNER):
                continue
            try:
                found[name] = Known.of(folder / name)
            except FileNotFoundError:
                continue  # gone meanwhile
    return found


def unit_of(name: str) -> str:
    """What comes and goes as a whole: one checkpoint, the clips of one step, one file of the replay store. Empty: a
    file of the run that never goes."""
    parts = name.split("/")
    if parts[0] in _FOLDERS_OF_UNITS and len(parts) > 2:
        return "/".join(parts[:2])
    return name if parts[0] == "replay" else ""


def _is_own(name: str) -> bool:
    return name.startswith(".") or name.endswith(".tmp")
