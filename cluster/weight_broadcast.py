"""The publisher's end of broadcasts: the newest weights in one flat copy, and a thread that gets them to all members.

    send ─▶ slot ─▶ roll call ─▶ group ─▶ broadcast ─▶ everybody said "done"
                        ▲                     │ a member died, or missed the deadline
                        └─────────────────────┘ the group is given up, whoever answers the next roll call is in the next

The learner goes on while the bytes travel; its next publication waits until they have arrived or a deadline has passed.
A member is whoever answers a roll call. There is one whenever somebody asks to join, or a broadcast failed, so that a
member that died is left out and one that came late gets the newest weights; every wait in it has a deadline.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist

from cluster.errors import RunFailed
from cluster.weight_bus import Buckets
from cluster.weight_group import CONNECT_S, PUBLISHER, BroadcastFailed, Group, Order, Parcel, own_gpu
from cluster.weight_layout import TensorSpec, bucket_sizes, by_bucket, copy_with_digest, pieces, views
from cluster.weight_member import BroadcastTicket

logger = logging.getLogger(__name__)

LISTEN_S = 0.02  # how often the thread looks whether somebody asks to join
ROLL_S = 3.0  # the longest wait for members that were there before
SETTLE_S = 0.15  # after an answer, for those that start at the same time
ACKNOWLEDGE_S = 0.005
OLD_ORDERS = 16  # kept in the store


@dataclass
class Slot:
    """One publication in memory."""

    parcel: Parcel
    buckets: list[np.ndarray]  # flat, [n] uint8


class Collective:
    """Transport over broadcasts. host: address of this node, at which members reach the publisher."""

    def __init__(self, host: str, deadline_s: float) -> None:
        listening = socket.create_server((host, 0), backlog=1024)
        self.address = (host, listening.getsockname()[1])
        self._store = dist.TCPStore(
            *self.address,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
            timeout=timedelta(seconds=CONNECT_S),
        )
        self._host, self._deadline_s = host, deadline_s
        self._serial = self._sent = 0
        self._base: Slot | None = None
        self._newest: Slot | None = None
        self._group: Group | None = None
        self._members: tuple[str, ...] = ()
        self._groups = self._orders = self._answered = 0
        self._slots = threading.Lock()  # held while slots are written or travel
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="weights-publisher", daemon=True)
        self._thread.start()

    def send(self, spec: Sequence[TensorSpec], buckets: Buckets, base: Any) -> tuple[BroadcastTicket, tuple[int, ...]]:
        """Raises RunFailed where the publication before is still on its way after several deadlines."""
        if not self._slots.acquire(timeout=4 * (self._deadline_s + ROLL_S)):
            raise RunFailed("weights: the publication before is still on its way")
        try:
            self._keep_base(base)
            sizes = bucket_sizes(spec)
            flat = self._memory(sizes, base)
            places = [views(bucket, tensors) for bucket, tensors in zip(flat, by_bucket(spec), strict=True)]
            digests = tuple(copy_with_digest(pieces(bucket), own) for bucket, own in zip(buckets, places, strict=True))
            self._serial += 1
            self._newest = Slot(Parcel(self._serial, sizes), flat)
        finally:
            self._slots.release()
        self._wake.set()
        return BroadcastTicket(self.address, self._serial, self._deadline_s), digests

    def close(self) -> None:
        """Says goodbye, so that members do not take it for an accident."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=self._deadline_s + ROLL_S)
        self._disband()
        self._post(Order(over=True))
        until = time.monotonic() + ROLL_S
        while self._store.add("left", 0) < len(self._members) and time.monotonic() < until:
            time.sleep(ACKNOWLEDGE_S)

    def _keep_base(self, base: BroadcastTicket | None) -> None:
        """After this, `_base` is the slot of `base`."""
        held = [slot for slot in (self._base, self._newest) if slot and base and slot.parcel.serial == base.serial]
        if base is not None and not held:
            raise ValueError("base: got a publication that is no longer kept")
        if self._newest is not None and held == [self._newest]:
            self._newest = None  # its memory stays the base's
        self._base = held[0] if held else None

    def _memory(self, sizes: tuple[int, ...], base: Any) -> list[np.ndarray]:
        """Room for a publication: that of the one before where it fits, because fresh pages cost many copies."""
        if self._newest is not None and self._newest.parcel.sizes == sizes:
            return self._newest.buckets
        self._newest = None
        return [np.zeros(size, np.uint8) for size in sizes]

    # ---- the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            self._wake.wait(LISTEN_S)
            self._wake.clear()
            try:
                self._round()
            except BroadcastFailed as error:
                logger.warning("%s; members are called together again", error)
                self._disband()
                self._wake.set()
            except Exception as error:
                if self._closed:
                    return
                logger.error("weights: the publisher's thread failed: %s", error)
                time.sleep(SETTLE_S)

    def _round(self) -> None:
        """Brings the newest weights to all members, and calls them together before where that is needed."""
        asked = self._store.add("requests", 0)
        with self._slots:
            newest = self._newest
            if newest is None or (asked == self._answered and newest.parcel.serial == self._sent):
                return
            complete = asked != self._answered or self._group is None
            if complete:
                self._answered = asked
                self._gather()
            if self._group is not None:
                slots = [slot for slot in (self._base, newest) if slot is not None] if complete else [newest]
                self._deliver(slots, complete)
            self._sent = newest.parcel.serial

    def _gather(self) -> None:
        """A roll call, and a group of whoever answers."""
        self._disband()
        self._groups += 1
        self._post(Order(roll=self._groups))
        answers = self._answers(set(self._members))
        self._members = tuple(sorted(answers))
        if not answers:
            return
        gpus = own_gpu() and all(answers.values())
        self._post(Order(group=self._groups, members=self._members, gpus=gpus))
        size = len(self._members) + 1
        self._group = Group(self._store, self._groups, PUBLISHER, size, self._host, self._deadline_s, gpus)

    def _answers(self, expected: set[str]) -> dict[str, bool]:
        """Who is there, and whether with a GPU. Waits `ROLL_S` for those expected, else until nobody new comes."""
        key, found = f"here/{self._groups}", dict[str, bool]()
        begun = last = time.monotonic()
        while True:
            for place in range(len(found) + 1, self._store.add(key, 0) + 1):
                name, gpu = self._store.get(f"{key}/{place}").decode().split()
                found[name], last = gpu == "gpu", time.monotonic()
            now = time.monotonic()
            if now > begun + ROLL_S or (expected <= found.keys() and now > last + SETTLE_S):
                return found
            time.sleep(ACKNOWLEDGE_S)

    def _deliver(self, slots: list[Slot], complete: bool) -> None:
        assert self._group is not None
        number = self._post(
            Order(group=self._groups, members=self._members, parcels=tuple(s.parcel for s in slots), complete=complete)
        )
        until = time.monotonic() + self._deadline_s
        try:
            for slot in slots:
                self._group.broadcast(slot.buckets, self._failed(number), until - time.monotonic())
            while self._store.add(f"done/{number}", 0) < len(self._members):
                if time.monotonic() > until or self._failed(number)():
                    raise BroadcastFailed("weights: a member did not confirm a broadcast")
                time.sleep(ACKNOWLEDGE_S)
        except BroadcastFailed:
            self._store.set(f"failed/{number}", "1")  # whoever waits for a member that died stops waiting
            raise

    def _failed(self, number: int) -> Callable[[], bool]:
        return lambda: self._store.check([f"failed/{number}"])

    def _post(self, order: Order) -> int:
        self._orders += 1
        self._store.set(f"order/{self._orders}", order.encode())
        self._store.set("orders", str(self._orders))
        for name in ("order", "done", "failed"):
            self._store.delete_key(f"{name}/{self._orders - OLD_ORDERS}")
        return self._orders

    def _disband(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group = None
