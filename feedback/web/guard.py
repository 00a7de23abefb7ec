"""ASGI layers around the app: headers on every answer, a limit for bodies, a limit of requests per address."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from limits import RateLimitItem, parse_many
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY_BYTES = 32 * 1024
SWEEP_S = 60.0

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self' blob:",  # clips are fetched once and played from memory
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
HSTS = {"strict-transport-security": "max-age=31536000"}


@lru_cache
def rates_of(text: str) -> tuple[RateLimitItem, ...]:
    """`60/minute;1000/day`, read once."""
    return tuple(parse_many(text))


@dataclass
class _Window:
    """What one key did in the present period, and in the one before."""

    period: int
    now: int = 0
    before: int = 0

    def move_to(self, period: int) -> None:
        if period > self.period:
            self.before = self.now if period == self.period + 1 else 0
            self.period, self.now = period, 0


class RateLimits:
    """How often each of some keys may do a thing, in memory.

    A sliding window of two counters: the period before counts by the share of it that the last period's length still
    covers. (As in the library `limits`, which reads the rates. Its storage in memory starts a thread at nearly every
    call; that cost as much as the rest of a vote.)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._swept_at = clock, clock()
        self._windows: dict[tuple[str, int], _Window] = {}  # by key and length of the period

    def __len__(self) -> int:
        """Counters that are kept."""
        return len(self._windows)

    def wait_s(self, rates: str, key: str) -> int:
        """Counts one more; 0 where it is allowed, else the seconds until it will be."""
        self._sweep()
        return next((wait for rate in rates_of(rates) if (wait := self._count(rate, key))), 0)

    def _count(self, rate: RateLimitItem, key: str) -> int:
        length_s = rate.get_expiry()
        period, passed_s = divmod(self._clock(), length_s)
        window = self._windows.setdefault((key, length_s), _Window(int(period)))
        window.move_to(int(period))
        if window.now + window.before * (1 - passed_s / length_s) < rate.amount:
            window.now += 1
            return 0
        return math.floor(_wait_s(window, rate.amount, length_s, passed_s)) + 1

    def _sweep(self) -> None:
        """Once a minute, forgets who has not come for two periods."""
        now = self._clock()
        if now - self._swept_at > SWEEP_S:
            self._swept_at = now
            kept = {place: each for place, each in self._windows.items() if now < (each.period + 2) * place[1]}
            self._windows = kept


def _wait_s(window: _Window, amount: int, length_s: int, passed_s: float) -> float:
    """Seconds until what has been counted has faded to `amount`."""
    if window.now < amount:
        return length_s * (1 - (amount - window.now) / window.before) - passed_s
    return length_s - passed_s + length_s * (1 - amount / window.now)


class AddressHash:
    """An address is known by a keyed hash, with a key that exists only in this process and is never written down."""

    def __init__(self, proxies: int) -> None:
        self._proxies, self._key = proxies, secrets.token_bytes(32)

    def __call__(self, scope: Scope) -> str:
        return blake2b(self._address(scope).encode(), key=self._key, digest_size=16).hexdigest()

    def _address(self, scope: Scope) -> str:
        """The peer, or what the outermost trusted proxy says the peer was."""
        peer = scope["client"][0] if scope.get("client") else ""
        if not self._proxies:
            return str(peer)
        chain = [part.strip() for part in ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")]
        known = [part for part in chain if part]
        return known[-self._proxies] if len(known) >= self._proxies else str(peer)


class SecureHeaders:
    """Adds the security headers to every answer, also to refusals of the layers inside."""

    def __init__(self, app: ASGIApp, https: bool) -> None:
        self._app, self._headers = app, HEADERS | (HSTS if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class AddressLimit:
    """Refuses requests of an address that sends too many. on_refusal hears the status."""

    def __init__(self, app: ASGIApp, rates: str, hash_of: AddressHash, on_refusal: Callable[[int], None]) -> None:
        self._app, self._rates, self._hash_of, self._on_refusal = app, rates, hash_of, on_refusal
        self._limits = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait_s = self._limits.wait_s(self._rates, self._hash_of(scope)) if scope["type"] == "http" else 0
        if wait_s:
            self._on_refusal(429)
            await refuse(send, 429, "too many requests from your network, please wait a little", wait_s)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies above the limit, whatever length they declare, without reading them to their end."""

    def __init__(self, app: ASGIApp, on_refusal: Callable[[int], None], largest: int = LARGEST_BODY_BYTES) -> None:
        self._app, self._on_refusal, self._largest = app, on_refusal, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            await self._refuse(send, 400, "content-length: not a number")
        elif int(declared[:20]) > self._largest:
            await self._refuse(send, 413, f"the body is too large, allowed {self._largest} bytes")
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._largest:
                raise BodyTooLarge(self._largest)
            return message

        return receive_counted

    async def _refuse(self, send: Send, status: int, error: str) -> None:
        self._on_refusal(status)
        await refuse(send, status, error)


class BodyTooLarge(HTTPException):
    """A body grew beyond the limit while it was read."""

    def __init__(self, largest: int) -> None:
        super().__init__(413, f"the body is too large, allowed {largest} bytes", {"connection": "close"})


async def refuse(send: Send, status: int, error: str, retry_after_s: int = 0) -> None:
    """A whole answer with {"error": …}."""
    headers = [(b"content-type", b"application/json")]
    if retry_after_s:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    body = json.dumps({"error": error}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
