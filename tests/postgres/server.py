"""A private PostgreSQL for tests: its own folder, its own port on loopback, its own password, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("postgres", "nobody")  # PostgreSQL refuses to run as root: these do it there
START_S = 60.0


def find_programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version; None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class PostgresServer:
    """`with PostgresServer() as server: server.url`. `kill` and `start` stand for a crash and what follows it."""

    def __init__(self) -> None:
        programs = find_programs()
        if programs is None:
            raise FileNotFoundError("PostgreSQL is not installed; Debian: apt-get install postgresql")
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="preference_log_postgres_"))
        self._user = _unprivileged()
        self._password = secrets.token_urlsafe(24)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._create()

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"postgresql://log:{self._password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on"}
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with open(self._folder / "log", "ab") as log:
            command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *words]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **self._user)
        self._wait()

    def kill(self) -> None:
        """As a power cut would: no clean end, no last checkpoint."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self._password)
        if self._user:
            for path in (self._folder, secret):
                os.chown(path, self._user["user"], self._user["group"])
        words = ["--auth=scram-sha-256", "--username=log", f"--pwfile={secret}", "--encoding=UTF8", "--no-locale"]
        command = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._user)
        secret.unlink()

    def _wait(self) -> None:
        import psycopg

        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()}") from None
                time.sleep(0.1)


def _unprivileged() -> dict[str, Any]:
    """Arguments of `subprocess` that leave root; none where this is not root."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in NAMES if name in known)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
