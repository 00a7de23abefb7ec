"""Audio files under the hash of their content: AUDIO_DIR/ab/abcdef….flac, written once, whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.storage import sync
from feedback.errors import Unavailable
from feedback.flac import sha256

FLAC = ".flac"
_TEMPORARY = ".partial"


class AudioStore:
    """Files are named by SHA-256 and suffix; equal content is one file. Safe for threads and processes."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def path(self, name: str) -> Path:
        """Where the file `name` (hash and suffix) is, or would be."""
        return self.directory / name[:2] / name

    def put(self, data: bytes, suffix: str = FLAC) -> str:
        """Stores `data` durably and returns its name. Raises Unavailable when the disk does not take it."""
        name = sha256(data) + suffix
        path = self.path(name)
        try:
            if not (path.is_file() and path.stat().st_size == len(data)):
                _write(path, data)
        except OSError as error:
            raise Unavailable(f"audio folder {self.directory}: {error.strerror or error}") from error
        return name

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None: missing, or no longer what its name says."""
        try:
            data = self.path(name).read_bytes()
        except OSError:
            return None
        return data if sha256(data) == Path(name).stem else None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"audio folder {self.directory}: {error.strerror or error}") from error

    def names(self, older_than_s: float = 0.0) -> Iterator[str]:
        """All files, also half-written ones that a killed process left, last touched at least so long ago."""
        before = time.time() - older_than_s
        for path in sorted(self.directory.glob("??/*")):
            if path.is_file() and path.stat().st_mtime <= before:
                yield path.name


def _write(path: Path, data: bytes) -> None:
    new_folder = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    # the temporary file stands in the same folder and begins with the same two letters, so that `names` finds it
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name[:2], suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)
    if new_folder:
        sync(path.parent.parent)
