"""The folder that a run writes: where each thing lies, how it is made, and who may write to it."""

from __future__ import annotations

import fcntl
import os
import re
from datetime import datetime
from pathlib import Path

from cluster.errors import UserError
from cluster.storage import write_text_atomic
from configs.load import CONFIG_FILE, stored_yaml
from configs.schema import Config


class RunFolder:
    """Paths of one run. One process at a time holds it open: the lock ends with the process, however that ends."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config = self.path / CONFIG_FILE
        self.metrics = self.path / "metrics.parquet"
        self.evaluation = self.path / "evaluation.parquet"
        self.report = self.path / "report.html"
        self.replay = self.path / "replay"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self._lock: int | None = None

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Makes the folder of a new run with its config.yaml, and locks it. Puts its path into config.run.dir.

        Raises UserError if there is something in it already, or it cannot be written.
        """
        folder = cls(config.run.dir or default_run_dir(config))
        folder.check_new()
        config.run.dir = str(folder.path)
        try:
            for directory in (folder.path, folder.replay, folder.checkpoints, folder.samples):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run.dir: got {str(folder.path)!r}, which cannot be made: {error.strerror}") from None
        folder._take_lock()
        write_text_atomic(folder.config, stored_yaml(config))
        return folder

    @classmethod
    def reopen(cls, config: Config) -> RunFolder:
        """Locks the folder of run.resume. Its config.yaml is rewritten with what the resume changed.

        Raises UserError if another process still writes it.
        """
        folder = cls(config.run.resume)
        folder._take_lock()
        write_text_atomic(folder.config, stored_yaml(config))
        return folder

    def check_new(self) -> None:
        """Raises UserError if a run cannot be started here. Makes nothing."""
        try:
            self._check_new()
        except OSError as error:  # a parent that may not even be looked into
            raise UserError(f"run.dir: got {str(self.path)!r}, which cannot be used: {error.strerror}") from None

    def _check_new(self) -> None:
        existing = nearest_existing(self.path)
        if not existing.is_dir():
            raise UserError(f"run.dir: got {str(self.path)!r}, but {str(existing)!r} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"run.dir: got {str(self.path)!r}, but {str(existing)!r} cannot be written to")
        if existing == self.path and any(self.path.iterdir()):
            raise UserError(
                f"run.dir: got {str(self.path)!r}, which is not empty; allowed a new or empty folder "
                f"(to go on with that run: run.resume={self.path})"
            )

    def checkpoint_step(self, step: int) -> Path:
        return self.checkpoints / f"step_{step}"

    def samples_step(self, step: int) -> Path:
        return self.samples / f"step_{step}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint folder, oldest first; whether each is whole is for its manifest to say."""
        if not self.checkpoints.is_dir():
            return []
        names = (re.fullmatch(r"step_(\d+)", path.name) for path in self.checkpoints.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def close(self) -> None:
        """Lets go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"run.dir: {str(self.path)!r} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise UserError(f"run.dir: {str(self.path)!r} is in use by another process that still runs") from None
        self._lock = handle


def default_run_dir(config: Config) -> str:
    """runs/PRESET-DATE-TIME, with a number after it where two runs start in one second."""
    preset = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(config.preset).stem) or "run"
    base = f"runs/{preset}-{datetime.now():%Y%m%d-%H%M%S}"
    taken = (base if number == 1 else f"{base}-{number}" for number in range(1, 10_000))
    return next(path for path in taken if not Path(path).exists())


def nearest_existing(path: Path) -> Path:
    """`path`, or the closest of its parents that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
