"""The right to write to a run folder on object storage: one owner at a time, who gives signs of life.

    .lease.json   {"owner": host, process, …; "epoch": of the owner's run; "content": of the run whose files these are;
                   "held": true; "lease_s": 30; "renewals": 17}

The object is only ever written on a condition (not there, or exactly as it was read), so two who want it cannot both
have it. An owner renews it in a third of `lease_s`; one who gave no sign for `lease_s`, by the server's clock, has lost
it to who asks, and finds that out with his next renewal. An owner that is provably dead (this machine would see its
process) loses it at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import RunFailed, UserError
from cluster.object_store import ABSENT, Content, ObjectStore
from cluster.store_errors import Conflict, Missing, StoreError

LEASE = ".lease.json"
POLL_S = 0.5


class LeaseLost(RunFailed):
    """Somebody else writes to the folder now."""


@dataclass(frozen=True)
class Owner:
    """A process. seen_from: where its id means something: boot of the machine and process namespace, or empty."""

    host: str
    pid: int
    started: float
    seen_from: str

    @classmethod
    def this(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), _seen_from())

    def is_dead(self) -> bool:
        """Whether this machine can tell that the process is no more."""
        if not self.seen_from or self.seen_from != _seen_from():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Lease:
    """One per run folder and process."""

    def __init__(self, store: ObjectStore, epoch: str, lease_s: float) -> None:
        self.epoch = epoch
        self.content = ""  # epoch of the run that last wrote here: whoever has its working folder has the newest
        self._store = store
        self._lease_s = lease_s
        self._etag = ""
        self._renewals = 0
        self._renewed_at = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = ""

    def wait_until_free(self, say: Callable[[str], None] = lambda text: None) -> Content | None:
        """Returns once nobody holds the folder -> the lease as it is then. Watches a silent owner until its time is up.

        Raises UserError as soon as the owner gives a sign of life.
        """
        first = found = self._read()
        while found is not None and _is_held(found):
            content = _parsed(found)
            owner = Owner(**content["owner"])
            left_s = float(content["lease_s"]) - found.age_s
            if left_s <= 0 or owner.is_dead() or content["epoch"] == self.epoch:
                break
            who = f"process {owner.pid} on {owner.host}"
            assert first is not None
            if found.etag != first.etag or (owner.seen_from and owner.seen_from == _seen_from()):
                raise UserError(
                    f"{self._store.field}: {self._store.url} is in use by {who}, which wrote to it "
                    f"{found.age_s:.0f} s ago; allowed once that run has ended"
                )
            if found is first:
                say(f"{self._store.url}: waiting at most {left_s:.0f} s for a sign of life of {who}")
            time.sleep(POLL_S)
            found = self._read()
        return found

    def take(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Raises UserError while another owner lives."""
        while True:
            found = self.wait_until_free(say)
            if found is not None:
                content = _parsed(found)
                if content["epoch"] == self.epoch and content["held"]:  # our own write, whose answer got lost
                    self._etag = found.etag
                    break
                self.content = content["content"]
            try:
                self._etag = self._store.put(LEASE, self._content(), found.etag if found else ABSENT)
                break
            except Conflict:
                continue
        self._renewed_at = time.monotonic()

    def settle(self) -> None:
        """From now on the files are this run's. Raises LeaseLost, StoreError."""
        self.content = self.epoch
        self.renew()

    def keep(self) -> None:
        """Renews from a thread of its own until `release`."""
        self._thread = threading.Thread(target=self._heartbeat, name="lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Raises LeaseLost, or StoreError where the store does not answer."""
        with self._lock:
            self.check()
            self._renewals += 1
            data, asked_at = self._content(), time.monotonic()
            try:
                self._etag = self._store.put(LEASE, data, self._etag)
            except Conflict:
                found = self._read()
                if found is None or found.data != data:  # else our own write, whose answer got lost
                    self._lost = f"{self._store.url} was taken over by {_who(found)}: this run must not write to it"
                    raise LeaseLost(self._lost) from None
                self._etag = found.etag
            self._renewed_at = asked_at

    def check(self) -> None:
        """Raises LeaseLost where that is known."""
        if self._lost:
            raise LeaseLost(self._lost)

    def require(self) -> None:
        """Before a write: certain to be held just now. Raises LeaseLost or StoreError."""
        self.check()
        if time.monotonic() - self._renewed_at > self._lease_s / 2:
            self.renew()

    def release(self) -> None:
        """Lets go, if the store can be told; else the time runs out by itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            with self._lock:
                if not self._lost:
                    self._store.put(LEASE, self._content(held=False), self._etag)
        except StoreError:
            pass

    def _heartbeat(self) -> None:
        pause_s = self._lease_s / 3
        while not self._stop.wait(pause_s):
            try:
                self.renew()
                pause_s = self._lease_s / 3
            except LeaseLost:
                return  # `check` tells
            except StoreError:
                pause_s = min(1.0, self._lease_s / 3)

    def _read(self) -> Content | None:
        try:
            return self._store.read(LEASE)
        except Missing:
            return None

    def _content(self, held: bool = True) -> bytes:
        content: dict[str, Any] = {
            "owner": asdict(Owner.this()),
            "epoch": self.epoch,
            "content": self.content,
            "held": held,
            "lease_s": self._lease_s,
            "renewals": self._renewals,
        }
        return json.dumps(content, indent=1).encode()


def _parsed(found: Content) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(found.data)
        Owner(**content["owner"])
        return {"epoch": "", "content": "", "held": True, "lease_s": 0.0, **content}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"run.dir: {LEASE} is not readable; allowed one that this program wrote, or none") from None


def _is_held(found: Content) -> bool:
    return bool(_parsed(found)["held"])


def _who(found: Content | None) -> str:
    if found is None:
        return "somebody who removed its lease"
    owner = Owner(**_parsed(found)["owner"])
    return f"process {owner.pid} on {owner.host}"


def _seen_from() -> str:
    """Processes that see this text under the same value see each other's ids. Empty where a system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
