"""Who may write: one owner at a time, whatever happens to him."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cluster.errors import UserError
from cluster.lease import LEASE, Lease, LeaseLost, Owner
from cluster.object_store import ObjectStore
from tests.storage.s3_server import Answer, Request, S3Server

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0, "seen_from": "another machine"}


@pytest.fixture
def store(server: S3Server) -> ObjectStore:
    return ObjectStore("s3://bucket/run")


def write(store: ObjectStore, owner: dict[str, object], lease_s: float = 30.0, **more: object) -> None:
    """A lease as somebody else wrote it."""
    content = {"owner": owner, "epoch": "other", "content": "other", "held": True, "lease_s": lease_s, "renewals": 0}
    store.put(LEASE, json.dumps({**content, **more}).encode())


def epoch_there(store: ObjectStore) -> str:
    return json.loads(store.read(LEASE).data)["epoch"]


def test_one_has_it_and_another_is_refused_at_once(store: ObjectStore) -> None:
    first = Lease(store, "first", 30)
    first.take()
    with pytest.raises(
        UserError, match=r"run\.dir: s3://bucket/run is in use by process \d+ on .*, which wrote to it 0 s"
    ):
        Lease(store, "second", 30).take()
    first.renew()
    first.release()
    second = Lease(store, "second", 30)
    second.take()
    assert epoch_there(store) == "second"


def test_of_many_who_ask_at_once_one_gets_it(store: ObjectStore) -> None:
    got, refused = [], []

    def ask(name: str) -> None:
        try:
            Lease(ObjectStore("s3://bucket/run"), name, 30).take()
            got.append(name)
        except UserError:
            refused.append(name)

    threads = [threading.Thread(target=ask, args=(f"{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 7 and epoch_there(store) == got[0]


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(store: ObjectStore) -> None:
    code = (
        "import os, sys; from cluster.lease import Lease; from cluster.object_store import ObjectStore; "
        "Lease(ObjectStore('s3://bucket/run'), 'dead', 600).take(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60)
    assert epoch_there(store) == "dead"
    heir = Lease(store, "heir", 30)
    heir.take()
    assert epoch_there(store) == "heir"


def test_a_process_number_that_was_given_away_again_is_dead() -> None:
    this = Owner.this()
    assert not this.is_dead()
    assert Owner(this.host, this.pid, this.started - 100, this.seen_from).is_dead()
    assert not Owner(this.host, 2**30, this.started, "another machine").is_dead()  # nobody can tell from here


def test_a_silent_owner_elsewhere_loses_it_when_its_time_is_up(store: ObjectStore) -> None:
    write(store, ELSEWHERE, lease_s=3)
    told: list[str] = []
    Lease(store, "heir", 30).take(told.append)
    assert epoch_there(store) == "heir"
    assert len(told) == 1 and "waiting at most 3 s for a sign of life of process 1 on elsewhere" in told[0]


def test_an_owner_elsewhere_that_gives_a_sign_of_life_keeps_it(store: ObjectStore) -> None:
    write(store, ELSEWHERE, lease_s=30)
    sign = threading.Timer(0.8, lambda: write(store, ELSEWHERE, lease_s=30, renewals=1))
    sign.start()
    with pytest.raises(UserError, match="in use by process 1 on elsewhere"):
        Lease(store, "heir", 30).take()
    sign.join()
    assert epoch_there(store) == "other"


def test_who_lost_it_finds_out_and_changes_nothing(store: ObjectStore) -> None:
    first = Lease(store, "first", 30)
    first.take()
    write(store, ELSEWHERE)
    with pytest.raises(LeaseLost, match="taken over by process 1 on elsewhere"):
        first.renew()
    with pytest.raises(LeaseLost):
        first.require()
    first.release()
    assert epoch_there(store) == "other"


def test_the_heartbeat_renews_and_notices_a_loss(store: ObjectStore) -> None:
    lease = Lease(store, "first", 0.3)
    lease.take()
    before = store.read(LEASE).etag
    lease.keep()
    _until(lambda: store.read(LEASE).etag != before)
    write(store, ELSEWHERE)
    _until(lambda: bool(lease._lost))
    lease.release()
    assert epoch_there(store) == "other"


@pytest.mark.parametrize("act", [Lease.take, Lease.renew])
def test_an_answer_that_got_lost_is_no_loss(store: ObjectStore, server: S3Server, act: Callable[[Lease], None]) -> None:
    lost: list[Request] = []

    def lose_one_answer(request: Request) -> Answer | None:
        if request.method != "PUT" or lost:
            return None
        lost.append(request)
        return Answer(500, "InternalError", lost=True)

    lease = Lease(store, "mine", 30)
    if act is not Lease.take:
        lease.take()
    with server.faults(lose_one_answer):
        act(lease)
    assert lost and epoch_there(store) == "mine"
    lease.renew()


def test_a_lease_that_nobody_can_read_is_one_line(store: ObjectStore) -> None:
    store.put(LEASE, b"{")
    with pytest.raises(UserError, match="is not readable"):
        Lease(store, "first", 30).take()


def _until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
