"""A run folder on object storage while a run owns it: the lease, the working folder on this machine, the mirror.

claim ─▶ working folder: this machine's own if it is the newest, else fetched ─▶ mirror ─▶ flush … ─▶ release
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from pathlib import Path
from typing import Protocol, TypeVar

from cluster.errors import RunFailed, UserError
from cluster.lease import LEASE, Lease
from cluster.mirror import MANIFEST, Mirror
from cluster.mirror_state import MirrorState, scan, unit_of
from cluster.object_store import ABSENT, ObjectStore
from cluster.store_errors import Conflict, StoreError
from cluster.working_copy import clear, fetch, working_folder
from configs.schema import StorageConfig

LOCK = ".lock"  # of the working folder, held by the caller
PROBE = ".probe"
CLIPS = "/samples.parquet"

Answer = TypeVar("Answer")


class Listener(Protocol):
    """Who tells a person. The last two are called from the mirror's thread."""

    def message(self, text: str) -> None: ...

    def storage_waits(self, url: str, cause: str, deadline_s: float) -> None: ...

    def storage_is_back(self, url: str, after_s: float) -> None: ...


class Unheard:
    """Nobody listens."""

    def message(self, text: str) -> None: ...

    def storage_waits(self, url: str, cause: str, deadline_s: float) -> None: ...

    def storage_is_back(self, url: str, after_s: float) -> None: ...


def check_usable(url: str, field: str) -> ObjectStore:
    """Writes, reads, lists and deletes something small, and tries whether conditions are honoured.

    Raises UserError, in one line, for whatever of it does not work.
    """
    store = ObjectStore(url, field)
    probe = f"{PROBE}-{uuid.uuid4().hex}"
    try:
        store.names(PROBE)
        store.put(probe, b"", ABSENT)
        try:
            store.put(probe, b"again", ABSENT)
        except Conflict:
            pass
        else:
            raise UserError(
                f"{field}: got {url!r}, whose server ignores conditional writes (If-None-Match); allowed one that "
                "honours them: without them two runs could write here"
            )
        finally:
            store.delete([probe])
    except StoreError as error:
        raise UserError(f"{field}: got {url!r}: {error}") from None
    return store


class RemoteRun:
    """One per run on a URL. Nothing is asked of the store by the constructor."""

    def __init__(
        self,
        url: str,
        settings: StorageConfig,
        epoch: str,
        field: str,
        listener: Listener | None = None,
    ) -> None:
        self.folder = working_folder(url, field)
        self.mirror: Mirror | None = None
        self._settings, self._field, self._url = settings, field, url
        self._listener = listener or Unheard()
        self._store = ObjectStore(url, field)
        self._lease = Lease(self._store, epoch, settings.lease_s)
        self._epoch = epoch

    def check_free(self) -> None:
        """Raises UserError while another run writes there."""
        self._answered(lambda: self._lease.wait_until_free(self._listener.message))

    def check_empty(self) -> None:
        """Raises UserError where something is there already."""
        names = self._answered(self._store.names)
        if any(name != LEASE and not name.startswith(PROBE) for name in names):
            raise UserError(
                f"{self._field}: got {self._url!r}, which is not empty; allowed a new or empty prefix "
                f"(to go on with that run: run.resume={self._url})"
            )

    def claim_new(self) -> None:
        """Takes the lease of an empty prefix; the working folder is empty then. Raises UserError."""
        self._answered(lambda: self._lease.take(self._listener.message))
        try:
            self.check_empty()
            clear(self.folder, keep=(LOCK,))
            self._settle(MirrorState(self.folder, self._store.url))
        except BaseException:
            self._lease.release()
            raise

    def claim_again(self, newest_whole: Callable[[Path], int | None]) -> None:
        """Takes the lease of a run, and brings the working folder to the newest state: as this machine left it where
        nobody else went on with the run since, else as the store has it.

        newest_whole: the step of the newest undamaged checkpoint in a folder. Raises UserError.
        """
        self._answered(lambda: self._lease.take(self._listener.message))
        try:
            state = MirrorState.load(self.folder, self._store.url)
            names = self._answered(self._store.names)
            committed = max((_step(name) for name in names if name.endswith(MANIFEST)), default=0)
            own = newest_whole(self.folder) if state.is_of(self._lease.content) else None
            if own is not None and own >= committed:
                self._answered(lambda: self._fetch_changed(state))
            else:
                clear(self.folder, keep=(LOCK,))
                state = MirrorState(self.folder, self._store.url)
                self._answered(lambda: self._fetch_all(state, newest_whole))
            self._settle(state)
        except BaseException:
            self._lease.release()
            raise

    def start(self) -> None:
        """Begins to carry the working folder over."""
        self._lease.keep()
        self.mirror = self._answered(
            lambda: Mirror(
                self.folder,
                self._store,
                self._lease,
                self._state,
                every_s=self._settings.upload_s,
                deadline_s=self._settings.deadline_s,
                on_wait=self._on_wait,
            )
        )

    async def flush(self) -> None:
        """Returns when the store has all that the working folder has. Raises RunFailed."""
        assert self.mirror is not None
        await asyncio.wrap_future(self.mirror.flush())

    def finish(self, alive: Callable[[], None]) -> None:
        """`flush` for the end of a run. alive: called about once a second. Raises RunFailed."""
        assert self.mirror is not None
        done = self.mirror.flush()
        while not wait([done], 1.0).done:
            alive()
        done.result()

    async def watch(self) -> None:
        """Never returns. Raises RunFailed once the folder is another's, or the store was gone for too long."""
        assert self.mirror is not None
        while self.mirror.failure is None:
            self._lease.check()
            await asyncio.sleep(0.5)
        raise self.mirror.failure

    def live(self) -> dict[str, int | float]:
        mirror = self.mirror
        if mirror is None:
            return {}
        waiting = mirror.waiting
        return {
            "storage_waiting": time.monotonic() - waiting.since if waiting else 0.0,
            "storage_wait_bound": self._settings.deadline_s,
            "storage_pending_bytes": mirror.pending_bytes,
            "storage_uploaded_bytes": mirror.uploaded_bytes,
        }

    def close(self) -> None:
        """Lets go of the lease, after one more try to bring everything over."""
        if self.mirror is not None:
            self.mirror.close()
        self._lease.release()

    def _on_wait(self, cause: str | None, seconds: float) -> None:
        if cause is None:
            self._listener.storage_is_back(self._url, seconds)
        else:
            self._listener.storage_waits(self._url, cause, seconds)

    def _settle(self, state: MirrorState) -> None:
        state.begin(self._epoch)
        self._answered(self._lease.settle)
        self._state = state

    def _fetch_changed(self, state: MirrorState) -> None:
        """Files at the top that somebody renewed in the store, as python -m evaluation.main does."""
        here, names = scan(self.folder), self._store.names()
        renewed = {
            name: stored
            for name, stored in names.items()
            if "/" not in name
            and not name.startswith(".")
            and (
                name not in here
                or (state.is_untouched(name, here[name]) and not state.is_current(name, here[name], names))
            )
        }
        fetch(self._store, self.folder, renewed, state)

    def _fetch_all(self, state: MirrorState, newest_whole: Callable[[Path], int | None]) -> None:
        """What a run needs to go on: of old checkpoints and of clips in between only what says that they are there."""
        names = self._store.names()
        self._listener.message(f"fetching {self._url} to {self.folder}")
        fetch(self._store, self.folder, {name: names[name] for name in _needed(names)}, state)
        manifests = [name for name in names if name.endswith(MANIFEST) and name in _needed(names)]
        for manifest in sorted(manifests, key=_step, reverse=True):
            own = {name: names[name] for name in names if unit_of(name) == unit_of(manifest)}
            fetch(self._store, self.folder, own, state)
            if newest_whole(self.folder) == _step(manifest):
                return

    def _answered(self, ask: Callable[[], Answer]) -> Answer:
        """Raises UserError where the store, the lease or the disk refuses: nothing has started yet."""
        try:
            return ask()
        except (StoreError, RunFailed) as error:
            raise UserError(f"{self._field}: got {self._url!r}: {error}") from None
        except OSError as error:
            raise UserError(f"{self._field}: {self.folder} cannot be written to: {error.strerror or error}") from None


def _needed(names: Iterable[str]) -> list[str]:
    """All but the files of checkpoints, and the clips of all evaluations but the first and the last."""
    names = list(names)
    heard = sorted((unit_of(name) for name in names if name.endswith(CLIPS)), key=_step)
    return [
        name
        for name in names
        if not name.startswith(".")
        and (
            name.endswith((MANIFEST, CLIPS))
            or not name.startswith(("checkpoints/", "samples/"))
            or unit_of(name) in (*heard[:1], *heard[-1:])
        )
    ]


def _step(name: str) -> int:
    """Of samples/step_50/… or checkpoints/step_50/…; -1 of another name."""
    found = re.match(r"(?:checkpoints|samples)/step_(\d+)(?:/|$)", name)
    return int(found[1]) if found else -1
