"""Carries a run's working folder to object storage while the run goes on, in one direction only.

    run ── writes ──▶ folder on this disk ── Mirror (a thread) ──▶ s3://BUCKET/PREFIX
                              │                    │
                              └── flush: done when all that is in the folder now is there too

Order of a pass: first what nothing names (segments, clips, tensors), then what names it (the replay log, tables, the
report), last the manifests of checkpoints. So whoever finds a manifest finds all that it needs: the checkpoint's files,
every row that the replay store had acknowledged before it, and the metrics up to it. Between two flushes a pass leaves
out manifests and the files that grow, and deletes nothing.

A manifest is written on the condition that none is there, after the lease was renewed: an owner who was thought dead
cannot commit a checkpoint into the run of its successor.

While the store takes no write, passes are tried again until `deadline_s` is over; `flush` waits as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import RunFailed
from cluster.lease import Lease, LeaseLost
from cluster.mirror_state import Known, MirrorState, scan, unit_of
from cluster.object_store import ABSENT, ObjectStore, Stored
from cluster.store_errors import Conflict, StoreError

MANIFEST = "/manifest.json"
INDEXES = ("replay/log.jsonl", "/samples.parquet")  # and every file at the top
JOURNALS = ("replay/log.jsonl", "metrics.jsonl")  # they grow with every step
UPLOADS_AT_ONCE = 8
SILENT_S = 2.0  # a shorter wait is not worth a word
LONGEST_PAUSE_S = 5.0
CLOSING_S = 20.0  # for one more try at the end of a run that failed


@dataclass(frozen=True)
class Waiting:
    """The store takes no write at the moment. since: time.monotonic() when it last did."""

    since: float
    cause: str


class Mirror:
    """One per run. on_wait hears (cause, storage.deadline_s) when waiting begins, and (None, seconds) when it is over;
    it is called from the mirror's own thread."""

    def __init__(
        self,
        folder: Path,
        store: ObjectStore,
        lease: Lease,
        state: MirrorState,
        *,
        every_s: float,
        deadline_s: float,
        on_wait: Callable[[str | None, float], None],
    ) -> None:
        self.waiting: Waiting | None = None
        self.pending_bytes = 0
        self.uploaded_bytes = 0
        self.failure: RunFailed | None = None
        self._folder, self._store, self._lease, self._state = folder, store, lease, state
        self._every_s, self._deadline_s, self._on_wait = every_s, deadline_s, on_wait
        self._remote = store.names()
        self._committed: set[str] = set()  # checkpoints of which the store holds just our files
        self._requests: list[Future[None]] = []
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._succeeded_at, self._told = time.monotonic(), False
        self._pool = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload")
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def flush(self) -> Future[None]:
        """Done when everything that lies in the folder now lies in the store. Its exception is RunFailed: the deadline
        passed, or somebody else writes there now."""
        request: Future[None] = Future()
        with self._lock:
            self._requests.append(request)
        self._wake.set()
        return request

    def close(self) -> None:
        """Ends the thread, after one more try to bring everything over. Further calls do nothing."""
        if self._closing.is_set():
            return
        last = self.flush()
        self._closing.set()
        wait([last], CLOSING_S)
        self._thread.join(1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._requests):
            self._wake.wait(self._every_s)
            self._wake.clear()
            requests = self._take_requests()
            try:
                self._try_until_done(requests)
            except RunFailed as error:
                self.failure = self.failure or error
            for request in requests:
                request.set_exception(self.failure) if self.failure else request.set_result(None)

    def _try_until_done(self, requests: list[Future[None]]) -> None:
        """requests: those that come in meanwhile are added, and served too. Raises RunFailed."""
        pause_s = 0.25
        while True:
            if self.failure is not None:
                raise self.failure
            try:
                self._pass(whole=bool(requests))
                self._note_success()
                return
            except StoreError as error:
                self._note_waiting(error)
                if self._closing.wait(pause_s):
                    raise RunFailed(f"{self._store.url}: not everything was uploaded: {error}") from None
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            requests += self._take_requests()

    def _take_requests(self) -> list[Future[None]]:
        with self._lock:
            taken, self._requests = self._requests, []
        return taken

    def _note_waiting(self, error: StoreError) -> None:
        """Raises RunFailed once the deadline is over."""
        waited_s = time.monotonic() - self._succeeded_at
        self.waiting = Waiting(self._succeeded_at, str(error))
        if waited_s > self._deadline_s:
            raise RunFailed(
                f"{self._store.url} took no write for {waited_s:.0f} s (storage.deadline_s): {error}; what is not "
                f"there yet lies in {self._folder}"
            ) from None
        if waited_s > SILENT_S and not self._told:
            self._told = True
            self._on_wait(str(error), self._deadline_s)

    def _note_success(self) -> None:
        if self.waiting is not None and self._told:
            self._on_wait(None, time.monotonic() - self.waiting.since)
        self.waiting, self._told = None, False
        self._succeeded_at = time.monotonic()

    # ---- a pass ---------------------------------------------------------------------------------------------------

    def _pass(self, whole: bool) -> None:
        """Raises StoreError, or RunFailed where trying again cannot help."""
        found = scan(self._folder)
        if "config.yaml" not in found:
            raise RunFailed(f"{self._folder}: the working folder of {self._store.url} has been removed")
        changed = [name for name, file in found.items() if not self._state.is_current(name, file, self._remote)]
        self.pending_bytes = sum(found[name].bytes for name in changed)
        if not whole:
            left_out = {*_growing(found), *(name for name in changed if _is_manifest(name))}
            changed = [name for name in changed if name not in left_out]
        if not changed and not whole:
            return
        manifests = [name for name in changed if _is_manifest(name)]
        self._remove(name for name in manifests if name in self._remote)  # it names what is about to be replaced
        for names in _in_order(name for name in changed if not _is_manifest(name)):
            self._upload_all(names)
        for name in manifests:
            self._commit(name, found)
        if whole:
            self._remove(self._left_over(found))
        self._state.save()

    def _upload_all(self, names: list[str]) -> None:
        """At once, and all of them tried; then raises what the first that failed raised."""
        uploads = [self._pool.submit(self._upload, name) for name in names]
        wait(uploads)
        for upload in uploads:
            upload.result()

    def _upload(self, name: str) -> None:
        path = self._folder / name
        try:
            file = Known.of(path)  # before it is read: what is written meanwhile is uploaded next time
            self._lease.require()
            etag = self._store.upload(name, path)
        except FileNotFoundError:
            return  # pruned or renamed away: the next pass sees what has become of it
        self._note_uploaded(name, file, etag)

    def _commit(self, name: str, found: dict[str, Known]) -> None:
        """Puts the manifest of a checkpoint where none is. One that is there is another writer's, unless it is ours."""
        unit = unit_of(name)
        files = {each: file for each, file in found.items() if unit_of(each) == unit and each != name}
        try:
            if any(Known.of(self._folder / each) != file for each, file in files.items()):
                return  # written anew while it was uploaded
            data = (self._folder / name).read_bytes()
        except FileNotFoundError:
            return  # pruned
        self._lease.renew()
        try:
            etag = self._store.put(name, data, ABSENT)
        except Conflict:
            there = self._store.read(name)
            if there.data != data:
                raise LeaseLost(f"{self._store.url}: another process has written {name}") from None
            etag = there.etag  # our own write, whose answer got lost
        self._committed.add(unit)
        self._note_uploaded(name, found[name], etag)

    def _note_uploaded(self, name: str, file: Known, etag: str) -> None:
        with self._lock:
            self._remote[name] = Stored(file.bytes, etag)
            self._state.note(name, file, etag)
            self.pending_bytes = max(0, self.pending_bytes - file.bytes)
            self.uploaded_bytes += file.bytes
        self._succeeded_at = time.monotonic()

    def _left_over(self, found: dict[str, Known]) -> list[str]:
        """Objects of checkpoints, clips and segments that are no more, and stray ones beside our own."""
        units = {unit_of(name) for name in found}
        stray = [name for name in self._remote if unit_of(name) in self._committed and name not in found]
        return stray + [name for name in self._remote if unit_of(name) and unit_of(name) not in units]

    def _remove(self, names: Iterable[str]) -> None:
        """A checkpoint's manifest goes first: what is left of it is no checkpoint."""
        for name in sorted(set(names), key=lambda name: (not _is_manifest(name), name)):
            self._lease.require()
            self._store.delete([name])
            self._remote.pop(name, None)
            self._state.forget(name)


def _is_manifest(name: str) -> bool:
    return name.startswith("checkpoints/") and name.endswith(MANIFEST)


def _growing(found: Iterable[str]) -> set[str]:
    """Files that are appended to: a flush carries them over, a pass between two would do so again and again."""
    segments = sorted(name for name in found if name.startswith("replay/segment_"))
    return {*JOURNALS, *segments[-1:]}


def _in_order(names: Iterable[str]) -> Iterator[list[str]]:
    """What nothing names, then what names it."""
    names = sorted(names)
    index = [name for name in names if "/" not in name or name.endswith(INDEXES)]
    yield [name for name in names if name not in set(index)]
    yield index
