"""The whole API against its own schema, with what schemathesis thinks up: no 5xx, no answer that the schema lacks.

`make test-api`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.feedback_app.served_app import HttpListener, free_port
from tests.feedback_app.small_app import ADMIN_TOKEN, SmallApp, small_app
from tests.system.tiny_world import TinyWorld

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.api, pytest.mark.timeout(1200)]

OPEN = {f"limits__{name}": "1000000/minute" for name in ("votes", "prompts", "requests", "listeners")}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
EXAMPLES, SEED = 60, 1
LAST_S = 900


@pytest.fixture(scope="module")
def url(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app behind a real server in a thread."""
    folder = tmp_path_factory.mktemp("api")
    app: SmallApp = small_app(folder, world, start=False, study__name="trial", study__count=2, **OPEN)
    app.clock.now = time.time()
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app.app, port=port, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=30)
    app.log.close()


def explore(url: str, headers: dict[str, str], *options: str) -> None:
    """Fails with schemathesis' own report."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/api/openapi.json"]
    command += [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
    command += [f"--checks={','.join(CHECKS)}", f"--max-examples={EXAMPLES}", f"--seed={SEED}", "--no-color", *options]
    environment = {**os.environ, "SCHEMATHESIS_REPORT": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LAST_S, env=environment, check=False)
    told = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, told[-12_000:]


def test_what_a_listener_and_an_admin_may_send(url: str) -> None:
    listener = HttpListener(url)
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in listener.client.cookies.jar)
    headers = {"Cookie": cookies, "X-CSRF-Token": listener.token, "Authorization": f"Bearer {ADMIN_TOKEN}"}
    explore(url, headers, "--exclude-method=DELETE")  # who is deleted can ask no more


def test_what_strangers_may_send(url: str) -> None:
    explore(url, {})


def test_a_listener_is_deleted(url: str) -> None:
    assert HttpListener(url).insist("DELETE", "/api/votes").status_code == 200
