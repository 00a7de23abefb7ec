"""The folder that a run writes: where each thing lies, how it is made, and who may write to it.

On a local path the run writes there. On s3://BUCKET/PREFIX it writes to a working folder on this machine in the same
way, which cluster.remote_run carries over; `path` is that folder, and only `name` and `shown` speak of the URL.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cluster.errors import UserError
from cluster.object_store import is_url
from cluster.remote_run import LOCK, Listener, RemoteRun, check_usable
from cluster.storage import write_text_atomic
from cluster.working_copy import working_folder
from configs.load import CONFIG_FILE, stored_yaml
from configs.schema import Config, StorageConfig


class RunFolder:
    """Paths of one run. One process at a time holds it open: the lock ends with the process, however that ends (on
    object storage, the lease soon after)."""

    def __init__(self, place: str | Path, field: str = "run.dir") -> None:
        local = working_folder(str(place), field) if is_url(place) else Path(place).expanduser()
        self.name = str(place).rstrip("/") if is_url(place) else str(local.absolute())
        self.path = local.absolute()
        self.config = self.path / CONFIG_FILE
        self.metrics = self.path / "metrics.parquet"
        self.evaluation = self.path / "evaluation.parquet"
        self.report = self.path / "report.html"
        self.replay = self.path / "replay"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.epoch = uuid.uuid4().hex  # of this incarnation of the run: every write carries it
        self.remote: RemoteRun | None = None
        self._field = field
        self._lock: int | None = None

    @classmethod
    def create(cls, config: Config, listener: Listener | None = None) -> RunFolder:
        """Makes the folder of a new run with its config.yaml, and locks it. Puts its name into config.run.dir.

        listener: tells a person. Raises UserError if there is something in it already, it cannot be written, or another
        run has just begun there.
        """
        folder = cls(config.run.dir or default_run_dir(config))
        if not is_url(folder.name):
            folder.check_new(config.storage)
        config.run.dir = folder.name
        folder._open(config, listener, RemoteRun.claim_new)
        return folder

    @classmethod
    def reopen(cls, config: Config, listener: Listener | None = None) -> RunFolder:
        """Locks the folder of run.resume. Its config.yaml is rewritten with what the resume changed.

        Raises UserError if another process still writes it.
        """
        folder = cls(config.run.resume, "run.resume")
        folder._open(config, listener, lambda remote: remote.claim_again(_newest_whole))
        return folder

    def check_new(self, storage: StorageConfig | None = None) -> None:
        """Raises UserError if a run cannot be started here. Makes nothing."""
        if is_url(self.name):
            check_usable(self.name, self._field)
            remote = RemoteRun(self.name, storage or StorageConfig(), self.epoch, self._field)
            remote.check_free()
            remote.check_empty()
            return
        try:
            self._check_new()
        except OSError as error:  # a parent that may not even be looked into
            raise UserError(f"run.dir: got {str(self.path)!r}, which cannot be used: {error.strerror}") from None

    def check_resumable(self, storage: StorageConfig) -> None:
        """Raises UserError where there is nothing to go on from, or nobody may write. Makes nothing."""
        if is_url(self.name):
            store = check_usable(self.name, self._field)
            RemoteRun(self.name, storage, self.epoch, self._field).check_free()
            manifests = [name for name in store.names("checkpoints/") if name.endswith("/manifest.json")]
            found, whole = "no", bool(manifests)
        else:
            steps = self.checkpoint_steps()
            whole = any((self.checkpoint_step(step) / "manifest.json").is_file() for step in steps)
            found = f"{len(steps)} incomplete" if steps else "no"
        if not whole:
            raise UserError(
                f"run.resume: got {self.name!r} with {found} checkpoints, allowed a run with a complete one"
            )
        if not is_url(self.name) and not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"run.resume: got {self.name!r}, which cannot be written to")

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

    def shown(self, path: Path) -> str:
        """A file of the folder as a person finds it."""
        return f"{self.name}/{path.relative_to(self.path).as_posix()}" if is_url(self.name) else str(path)

    async def flush(self) -> None:
        """Returns when all that is in the folder is where it is kept. Raises RunFailed."""
        if self.remote is not None:
            await self.remote.flush()

    async def watch(self) -> None:
        """Never returns. Raises RunFailed once the folder is no longer this run's to write to."""
        if self.remote is None:
            await asyncio.Event().wait()
        else:
            await self.remote.watch()

    def live(self) -> dict[str, int | float]:
        """For Prometheus: how the way to the store stands; nothing of a local folder."""
        return {} if self.remote is None else self.remote.live()

    def finish(self, alive: Callable[[], None] = lambda: None) -> None:
        """`flush` for the end of a run, which is then closed. alive: called about once a second. Raises RunFailed."""
        if self.remote is not None:
            self.remote.finish(alive)
        self.close()

    def close(self) -> None:
        """Lets go of the lock. Further calls do nothing."""
        if self.remote is not None:
            self.remote.close()
            self.remote = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self, config: Config, listener: Listener | None, claim: Callable[[RemoteRun], None]) -> None:
        """Locked, and with the config in it. Raises UserError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if is_url(self.name):
                remote = RemoteRun(self.name, config.storage, self.epoch, self._field, listener)
                claim(remote)
                self.remote = remote
            for directory in (self.replay, self.checkpoints, self.samples):
                directory.mkdir(exist_ok=True)
            write_text_atomic(self.config, stored_yaml(config))
            if self.remote is not None:
                self.remote.start()
        except OSError as error:
            self.close()
            raise UserError(f"run.dir: got {str(self.path)!r}, which cannot be made: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"run.dir: {str(self.path)!r} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(handle, 1000, 0).decode(errors="replace").strip()
            os.close(handle)
            by = f"{owner}, which still runs" if owner else "another process that still runs"
            raise UserError(f"{self._field}: {self.name!r} is in use by {by}") from None
        self._lock = handle
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


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


def _newest_whole(folder: Path) -> int | None:
    """The step of the newest undamaged checkpoint."""
    from learner.checkpoint import latest_complete, step_of  # it loads torch

    path = latest_complete(folder)
    return None if path is None else step_of(path)
