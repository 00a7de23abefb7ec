"""A run folder on object storage: a real S3 interface that goes away or fails, a machine that takes its disk along."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.working_copy import working_folder
from tests.faults.place import Place
from tests.faults.schedule import Fault
from tests.storage.s3_server import S3Server, Seeded

URL = "s3://bucket/runs/one"
FAILS = 0.4  # of the requests while storage is flaky


class Bucket(Place):
    """folder: gets a cache folder for each machine, and in the end what lies in the bucket."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        super().__init__(URL, folder, dict(server.environment), roles=("storage", "machine"))
        self._server = server
        self._folder = folder
        self._machines = 0
        self._new_machine()

    def strike(self, fault: Fault) -> None:
        match fault.kind:
            case "cut":
                self._server.stop()
                time.sleep(fault.lasts_s)
                self._server.start()
            case "flaky":
                with self._server.faults(Seeded(int(fault.chance * 1000), FAILS)):
                    time.sleep(fault.lasts_s)
            case _:
                self._new_machine()

    def whole(self) -> Path:
        """The objects as files."""
        there = self._folder / "there"
        for name, data in self._server.objects("bucket", "runs/one/").items():
            path = there / name.removeprefix("runs/one/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return there

    def _new_machine(self) -> None:
        """A cache folder that nothing lies in."""
        self._machines += 1
        self.environment["MUSICRL_CACHE"] = str(self._folder / f"machine_{self._machines}")
        with pytest.MonkeyPatch.context() as patch:  # the folder's name knows its server
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.run_dir = working_folder(URL, "run.dir")


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    """A bucket of its own, gone afterwards."""
    with S3Server() as server:
        server.make_bucket("bucket")
        yield Bucket(server, folder)
