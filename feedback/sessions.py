"""Signed cookies: who a listener is (a pseudonym), which pair lies before them, and the token of their requests.

Nothing is kept on the server, so a restart of the app changes nothing for a listener who is in the middle of a pair.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from cluster.storage import sync

Clock = Callable[[], float]  # seconds since 1970
KEY_BYTES = 32


class NoSession(Exception):
    """No cookie, a forged one, or one that is too old."""


@dataclass(frozen=True)
class Session:
    listener_id: str
    nonce: str
    issued_at: float


@dataclass(frozen=True)
class Offer:
    """A pair that was put before a listener, and when."""

    pair_id: str
    listener_id: str
    study: str
    offered_at: float


class Sessions:
    """Seals and opens cookies with one key. Raises NoSession for whatever was not sealed by it, or is too old."""

    def __init__(self, key: bytes, longest_s: float, clock: Clock = time.time) -> None:
        self._key, self._longest_s, self._clock = key, longest_s, clock
        self._sessions = URLSafeSerializer(key, salt="session", signer_kwargs=_SIGNING)
        self._offers = URLSafeSerializer(key, salt="offer", signer_kwargs=_SIGNING)
        self._admins = URLSafeSerializer(key, salt="admin", signer_kwargs=_SIGNING)

    def new(self) -> Session:
        return Session(secrets.token_hex(16), secrets.token_hex(8), self._clock())

    def seal(self, session: Session) -> str:
        return str(self._sessions.dumps([session.listener_id, session.nonce, session.issued_at]))

    def open(self, cookie: str | None) -> Session:
        session = Session(*self._load(self._sessions, cookie, fields=3))
        self._check_age(session.issued_at)
        return session

    def is_aging(self, session: Session) -> bool:
        """Past half of its time: seal it anew, so that who comes back is remembered."""
        return self._clock() - session.issued_at > self._longest_s / 2

    def renewed(self, session: Session) -> Session:
        return Session(session.listener_id, session.nonce, self._clock())

    def csrf_token(self, session: Session) -> str:
        """What only a page that may read our answers knows; bound to the session."""
        return hmac.new(self._key, f"csrf {session.listener_id} {session.nonce}".encode(), sha256).hexdigest()

    def is_csrf_token(self, session: Session, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(self.csrf_token(session).encode(), token.encode())

    def seal_offer(self, offer: Offer) -> str:
        return str(self._offers.dumps([offer.pair_id, offer.listener_id, offer.study, offer.offered_at]))

    def open_offer(self, cookie: str | None) -> Offer:
        offer = Offer(*self._load(self._offers, cookie, fields=4))
        self._check_age(offer.offered_at)
        return offer

    def seal_admin(self, until: float) -> str:
        return str(self._admins.dumps([until]))

    def open_admin(self, cookie: str | None) -> float:
        """-> until when it holds."""
        return float(self._load(self._admins, cookie, fields=1)[0])

    def _load(self, serializer: URLSafeSerializer, cookie: str | None, fields: int) -> list[Any]:
        try:
            content = serializer.loads(cookie or "")
        except BadSignature:
            raise NoSession from None
        if not isinstance(content, list) or len(content) != fields:  # sealed by another version of the app
            raise NoSession
        return content

    def _check_age(self, since: float) -> None:
        if not 0 <= self._clock() - since + 60 <= self._longest_s + 60:  # a minute for clocks that are set back
            raise NoSession


_SIGNING = {"digest_method": sha256, "key_derivation": "hmac"}


def load_key(folder: Path) -> bytes:
    """The key that cookies are signed with: made once, readable by its owner only, kept over restarts."""
    path = folder / "key"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise OSError(f"{path} is too short for a key; remove it and every listener starts anew")
    return key


def _make_key(path: Path) -> None:
    """Appears whole or not at all; of several processes that make one, the first wins."""
    temporary = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        sync(path.parent)
    finally:
        temporary.unlink()
