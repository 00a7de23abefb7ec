"""A reader's end of broadcasts: one thread a process that takes part in them, whatever the process is doing meanwhile.

New weights arrive in a buffer while the process still samples with the old ones; `BroadcastTicket.open` then lends the
buffer to whoever copies them into the module. A process holds two versions at most: the module's and the buffer's.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import ray
import torch.distributed as dist

from cluster.errors import RunFailed
from cluster.weight_bus import Lent, Publication, Superseded
from cluster.weight_group import CONNECT_S, BroadcastFailed, Group, Order, Parcel, own_gpu
from cluster.weight_layout import by_bucket, pieces, views

logger = logging.getLogger(__name__)

WATCH_S = 30.0  # a wait for the next order that is repeated when it has passed

Held = dict[int, list[np.ndarray]]  # serial -> flat buckets


@dataclass(frozen=True)
class BroadcastTicket:
    """A publication that is broadcast by the publisher at `address`."""

    address: tuple[str, int]
    serial: int
    broadcast_s: float  # deadline of one broadcast

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[Lent]:
        member = member_of(self.address, self.broadcast_s)
        with member.lent(self.serial, deadline_s) as flat:
            yield [
                pieces(views(bucket, tensors))
                for bucket, tensors in zip(flat, by_bucket(publication.spec), strict=True)
            ]


class Member:
    """This process among those that receive the broadcasts of one publisher."""

    def __init__(self, address: tuple[str, int], broadcast_s: float) -> None:
        self._broadcast_s = broadcast_s
        self._host = _own_host(address[0])
        self._name = f"{self._host}/{uuid.uuid4().hex}"  # ranks go by name: neighbours in the tree share a node
        self._watching = self._connect(address)  # one connection waits for orders, the other never waits long
        self._asking = self._connect(address)
        self._group: Group | None = None
        self._changed = threading.Condition()  # guards what follows
        self._held: Held = {}
        self._lent = 0
        self._newest = 0  # serial
        self._complete = 0  # orders in which everything was offered
        self._gone = ""  # why no more orders will come
        self._next = int(self._watching.add("orders", 0)) + 1
        self._asking.add("requests", 1)
        threading.Thread(target=self._follow, name="weights-member", daemon=True).start()

    @contextmanager
    def lent(self, serial: int, deadline_s: float) -> Iterator[list[np.ndarray]]:
        """The flat buckets of a publication, which stay as they are until the context ends.

        Raises TimeoutError; Superseded; RunFailed when the publisher is gone.
        """
        with self._changed:
            self._wait_for(serial, time.monotonic() + deadline_s)
            self._lent += 1
            buckets = self._held[serial]
        try:
            yield buckets
        finally:
            with self._changed:
                self._lent -= 1
                self._changed.notify_all()

    def _wait_for(self, serial: int, until: float) -> None:
        asked_at: int | None = None
        while serial not in self._held:
            if self._gone:
                raise RunFailed(f"weights: no more broadcasts: {self._gone}")
            if serial < self._newest and asked_at is None:  # a base that it let go of, or one that it came too late for
                asked_at = self._complete
                self._asking.add("requests", 1)
            if asked_at is not None and self._complete > asked_at:
                raise Superseded(f"weights: publication {serial} can no longer be fetched, {self._newest} can")
            if not self._changed.wait(until - time.monotonic()):
                raise TimeoutError(f"weights: publication {serial} did not arrive in time")

    # ---- the thread -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            while not (order := self._await_order()).over:
                self._obey(order, self._next)
                self._next += 1
            self._leave()
            self._watching.add("left", 1)
            raise RunFailed("the publisher has ended")
        except Exception as error:
            with self._changed:
                self._gone = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
                self._held = {}
                self._changed.notify_all()

    def _await_order(self) -> Order:
        key = f"order/{self._next}"
        while True:
            try:
                self._watching.wait([key], timedelta(seconds=WATCH_S))
            except dist.DistStoreError:  # nothing to do for so long
                newest = int(self._watching.get("orders"))
                if newest > self._next:  # the order was dropped before it was read
                    self._next = newest
                    key = f"order/{newest}"
                continue
            return Order.decode(self._watching.get(key))

    def _obey(self, order: Order, number: int) -> None:
        if order.roll:
            self._leave()
            place = self._watching.add(f"here/{order.roll}", 1)
            self._watching.set(f"here/{order.roll}/{place}", f"{self._name} {'gpu' if own_gpu() else 'cpu'}")
            return
        if self._name not in order.members:
            self._leave()
            self._watching.add("requests", 1)
            return
        try:
            self._take_part(order, number)
        except BroadcastFailed as error:
            logger.info("%s", error)
            self._watching.set(f"failed/{number}", "1")
            self._leave()

    def _take_part(self, order: Order, number: int) -> None:
        if not order.parcels:  # the group comes together
            rank, size = 1 + order.members.index(self._name), 1 + len(order.members)
            self._group = Group(self._watching, order.group, rank, size, self._host, self._broadcast_s, order.gpus)
            return
        if self._group is None or self._group.number != order.group:
            raise BroadcastFailed("weights: a broadcast of a group that this process is not in")
        self._make_room(order)
        for parcel in order.parcels:
            buckets = self._held.pop(-parcel.serial)
            self._group.broadcast(buckets, lambda: self._watching.check([f"failed/{number}"]), self._broadcast_s)
            self._arrived(parcel, buckets)
        with self._changed:
            self._complete += order.complete
            self._changed.notify_all()
        self._watching.add(f"done/{number}", 1)

    def _make_room(self, order: Order) -> None:
        """Waits until nobody reads the buffer, and lays it out for what is coming: under the negative serial."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._lent, self._broadcast_s):
                raise BroadcastFailed("weights: the buffer was not given back in time")
            spare = list(self._held.values())
            self._held = {}
            for parcel in order.parcels:
                fits = next((b for b in spare if tuple(bucket.size for bucket in b) == parcel.sizes), None)
                spare = [b for b in spare if b is not fits]
                self._held[-parcel.serial] = fits or [np.zeros(size, np.uint8) for size in parcel.sizes]

    def _arrived(self, parcel: Parcel, buckets: list[np.ndarray]) -> None:
        with self._changed:
            self._held[parcel.serial] = buckets
            self._newest = max(self._newest, parcel.serial)
            self._changed.notify_all()

    def _leave(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group = None

    def _connect(self, address: tuple[str, int]) -> dist.TCPStore:
        limit = timedelta(seconds=CONNECT_S)
        try:
            return dist.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=limit)
        except RuntimeError as error:
            raise RunFailed(f"weights: no publisher at {address[0]}:{address[1]}") from error


_members: dict[tuple[str, int], Member] = {}
_registry = threading.Lock()


def member_of(address: tuple[str, int], broadcast_s: float) -> Member:
    """This process's member of the broadcasts of one publisher."""
    with _registry:
        if address not in _members:
            _members[address] = Member(address, broadcast_s)
        return _members[address]


def _own_host(publisher: str) -> str:
    """The address at which other members reach this process."""
    if publisher.startswith("127."):
        return publisher
    return ray.util.get_node_ip_address() if ray.is_initialized() else publisher
