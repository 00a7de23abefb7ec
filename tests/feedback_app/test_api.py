"""The whole API against its own schema, with what schemathesis thinks up: no 5xx, no answer that the schema lacks.

`make test-api`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.feedback_app.served_app import HttpListener, free_port
from tests.feedback_app.small_app import ADMIN_TOKEN, SmallApp, small_app
from tests.system.tiny_world import TinyWorld

uvicorn = pytest.importorskip("uvicorn")
schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.api, pytest.mark.timeout(1200)]

OPEN = {f"limits__{name}": "1000000/minute" for name in ("votes", "prompts", "requests", "listeners")}
schema = schemathesis.pytest.from_fixture("api_schema")


@pytest.fixture(scope="module")
def url(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app behind a real server in a thread."""
    app: SmallApp = small_app(tmp_path_factory.mktemp("api"), world, study__name="trial", study__count=2, **OPEN)
    app.client.__exit__(None, None, None)  # the server runs the app's beginning and end
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


@pytest.fixture(scope="module")
def listener(url: str) -> HttpListener:
    return HttpListener(url)


@pytest.fixture(scope="module")
def api_schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/api/openapi.json")


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_schema_states(case: Any, url: str, listener: HttpListener) -> None:
    who = HttpListener(url) if case.method == "DELETE" else listener  # who is deleted can ask no more
    headers = {"x-csrf-token": who.token, "authorization": f"Bearer {ADMIN_TOKEN}"}
    case.call_and_validate(cookies=dict(who.client.cookies), headers=headers)


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_strangers_are_refused_as_the_schema_states(case: Any) -> None:
    case.call_and_validate()
