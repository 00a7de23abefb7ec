"""`python -m feedback.main` in a process of its own, on Ray, and a listener who speaks to it over HTTP."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "assets" / "tiny"
ADMIN_TOKEN = "a-token-for-the-tests"
START_S = 300


@dataclass
class ServedApp:
    """words: settings beside port and log.dir. Killed and started again, it has the same port and log."""

    folder: Path
    words: list[str]
    port: int = 0
    process: subprocess.Popen[str] | None = None
    output: Path = field(init=False)

    def __post_init__(self) -> None:
        self.port = self.port or free_port()
        self.output = self.folder / "output.txt"

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def start(self) -> ServedApp:
        """Returns when the page is ready."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FEEDBACK_ADMIN_TOKEN": ADMIN_TOKEN}
        words = [f"port={self.port}", f"log.dir={self.folder / 'log'}", *self.words]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "feedback.main", *words],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        give_up = time.monotonic() + START_S
        while "\nready: " not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < give_up, f"not ready after {START_S} s\n{self.output.read_text()}"
            time.sleep(0.2)
        return self

    def stop(self) -> str:
        """Ctrl-C -> what it printed. Fails unless it ends cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, self.output.read_text()
        return self.output.read_text()

    def kill(self) -> None:
        """kill -9 of the app; Ray's processes, which it started, end with it."""
        assert self.process is not None
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(below, timeout=20)
        for process in left:
            process.kill()

    def replica(self) -> int:
        """Process id of the Serve replica; waits for it."""
        assert self.process is not None
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if _title(child).startswith("ray::ServeReplica"):
                    return child.pid
            time.sleep(0.1)
        raise AssertionError("no replica")


class HttpListener:
    """A page without a browser: keeps its vote and sends it until it is acknowledged or refused."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)
        self.token = self.insist("GET", "/api/session").json()["csrf_token"]
        self.client.headers["x-csrf-token"] = self.token
        assert self.insist("PUT", "/api/consent", json={"consent": "train"}).status_code == 200

    def insist(self, method: str, path: str, **options: Any) -> httpx.Response:
        """As the page does: what is not our own answer, or says try later, is sent again. Fails after five minutes."""
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            try:
                answer = self.client.request(method, path, **options)
                if answer.status_code < 500 and answer.status_code != 429 and is_ours(answer):
                    return answer
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{method} {path}: no answer")

    def pair(self, prompt: str | None = None) -> dict[str, Any]:
        state = self.insist("POST", "/api/pair", json={"prompt": prompt}).json()
        give_up = time.monotonic() + START_S
        while state["state"] != "ready":
            assert time.monotonic() < give_up, state
            time.sleep(0.1)
            state = self.insist("GET", "/api/pair").json()
            if state["state"] in ("none", "failed"):
                state = self.insist("POST", "/api/pair", json={"prompt": prompt}).json()
        return state["pair"]


def vote_body(pair: dict[str, Any], choice: str = "a") -> dict[str, Any]:
    heard = {side: {"clip_id": pair[side]["clip_id"], "played": [[0.0, pair[side]["needed_s"]]]} for side in "ab"}
    return {"vote_id": secrets.token_hex(16), "pair_id": pair["pair_id"], "choice": choice, **heard}


def is_ours(answer: httpx.Response) -> bool:
    """An answer of the app itself, not of the proxy while the app restarts."""
    return "content-security-policy" in answer.headers


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="listen"))  # short: Ray keeps Unix sockets near it


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
