"""A real S3 interface on this machine for tests: moto in threads of the test's own process, and faults on demand.

with S3Server() as server:
    server.make_bucket("bucket")
    subprocess.run(..., env={**os.environ, **server.environment})
    server.stop(); ...; server.start()           # nobody listens for a while; nothing is lost
    with server.faults(deny_writes): ...         # any function of a request -> Answer or None
    with server.faults(Seeded(seed=3, share=0.1)): ...
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
WRITES = ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Request:
    """What a fault may look at."""

    method: str
    path: str  # /BUCKET/KEY
    number: int  # of this request since the server was made


@dataclass(frozen=True)
class Answer:
    """Instead of the server's own. lost: the server does what it was asked and its answer is thrown away."""

    status: int = 503
    code: str = "SlowDown"
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False


Fault = Callable[[Request], Answer | None]


def deny_writes(request: Request) -> Answer | None:
    """A bucket that has become read-only."""
    return Answer(403, "AccessDenied") if request.method in WRITES else None


def skewed_clock(request: Request) -> Answer | None:
    """A server that holds this machine's clock for wrong by ten hours."""
    now = datetime.fromtimestamp(time.time() - 36_000, UTC)
    return Answer(403, "RequestTimeTooSkewed", {"Date": format_datetime(now, usegmt=True)})


def wrong_region(request: Request) -> Answer | None:
    return Answer(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-central-1"})


def bad_credentials(request: Request) -> Answer | None:
    return Answer(403, "InvalidAccessKeyId")


class Seeded:
    """Fails a share of the requests, chosen by seed and request number: busy, internal error, or the answer lost."""

    KINDS = (Answer(503, "SlowDown"), Answer(500, "InternalError"), Answer(500, "InternalError", lost=True))

    def __init__(self, seed: int, share: float, kinds: Iterable[Answer] = KINDS) -> None:
        self._seed, self._share, self._kinds = seed, share, tuple(kinds)
        self.failed = 0

    def __call__(self, request: Request) -> Answer | None:
        noise = random.Random(f"{self._seed}-{request.number}")
        if noise.random() >= self._share:
            return None
        self.failed += 1
        return noise.choice(self._kinds)


class S3Server:
    """One at a time in a process: its buckets live in the process, and each new server starts with none."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0
        self.reset()

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this server."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": self.url}

    def reset(self) -> None:
        """As new: no bucket, no fault, no request seen, and it listens."""
        import moto.backends

        moto.backends.get_backend("s3").reset()
        self.requests.clear()
        self._faults.clear()
        if self._server is None:
            self.start()

    def start(self) -> None:
        """Listens, on the same port as before."""
        self._server = make_server("127.0.0.1", self.port, self._serve, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        self._server = self._thread = None

    def make_bucket(self, name: str) -> str:
        """-> its URL."""
        self._backend().create_bucket(name, "us-east-1")
        return f"s3://{name}"

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """An object, written past every fault."""
        self._backend().put_object(bucket, name, data)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """What lies in a bucket, read past every fault."""
        keys = self._backend().get_bucket(bucket).keys
        return {name: bytes(key.value) for name, key in keys.items() if name.startswith(prefix)}

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        self._faults += faults
        try:
            yield
        finally:
            self._faults = [fault for fault in self._faults if fault not in faults]

    @staticmethod
    def _backend() -> Any:
        import moto.backends

        return moto.backends.get_backend("s3")["123456789012"]["aws"]

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], len(self.requests))
        self.requests.append(request)
        answer = next((found for fault in self._faults if (found := fault(request))), None)
        if answer is None:
            return self._application(environ, start_response)
        if answer.lost:
            list(self._application(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{answer.code}</Code><Message>a planted fault</Message></Error>"
        data = b"" if request.method == "HEAD" or answer.status < 400 else body.encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(data)), **answer.headers}
        start_response(f"{answer.status} Planted", list(headers.items()))
        return [data]


class _Quiet(WSGIRequestHandler):
    def log_request(self, *arguments: object) -> None: ...
