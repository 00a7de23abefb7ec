"""What the app is made of, and what most routes ask for: the session, the token of the request, the offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from feedback.answers import Answers
from feedback.meter import Meter
from feedback.preference_log import PreferenceLog
from feedback.prompt_rules import PromptRules
from feedback.rating_desk import RatingDesk
from feedback.sessions import Clock, NoSession, Offer, Session, Sessions
from feedback.settings import Settings
from feedback.studio import Studio
from feedback.threads import LogThreads
from feedback.web.guard import AddressHash, RateLimits
from feedback.web.messages import ClipOut, PairOut
from feedback.web.problems import Problematic

SESSION, PAIR, RATING, ADMIN = "listener", "pair", "rating", "admin"  # cookies


@dataclass(frozen=True)
class Parts:
    settings: Settings
    log: PreferenceLog
    threads: LogThreads
    exports: LogThreads  # one thread, for what takes minutes
    sessions: Sessions
    studio: Studio
    answers: Answers
    prompt_rules: PromptRules
    suggestions: frozenset[str]
    limits: RateLimits
    address_hash: AddressHash
    meter: Meter
    clock: Clock
    admin_token: str
    desk: RatingDesk | None

    def limit(self, rates: str, key: str, what: str) -> None:
        """rates: as in the settings. Raises Problematic (429) where `key` does `what` too often."""
        wait_s = self.limits.wait_s(rates, key)
        if wait_s:
            raise Problematic(429, f"too many {what}, please wait a little", wait_s)

    def cookie_name(self, name: str) -> str:
        """__Host-: the browser takes the cookie only by https, for this host, and no subdomain can set it."""
        return f"__Host-{name}" if self.settings.https else name

    def set_cookie(self, response: Response, name: str, value: str, longest_s: int, strict: bool = False) -> None:
        response.set_cookie(
            self.cookie_name(name),
            value,
            max_age=longest_s,
            path="/",
            httponly=True,
            secure=self.settings.https,
            samesite="strict" if strict else "lax",
        )

    def drop_cookie(self, response: Response, name: str) -> None:
        self.set_cookie(response, name, "", 0)

    @property
    def session_s(self) -> int:
        return self.settings.session_days * 86400

    def offer_of(self, request: Request, name: str, session: Session) -> Offer | None:
        """The pair that lies before the listener, if the cookie says so and is theirs."""
        try:
            offer = self.sessions.open_offer(request.cookies.get(self.cookie_name(name)))
        except NoSession:
            return None
        return offer if offer.listener_id == session.listener_id else None

    async def pair_out(self, pair_id: str) -> PairOut:
        """Raises Refused for a pair that is not there."""
        shown = await self.answers.shown(pair_id)
        clips = [
            ClipOut(
                clip_id=clip.clip_id,
                url=f"/clips/{clip.clip_id}.flac",
                seconds=clip.seconds,
                needed_s=round(self.answers.needed_s(clip), 3),
            )
            for clip in shown.clips
        ]
        return PairOut(pair_id=pair_id, prompt=shown.pair.prompt, a=clips[0], b=clips[1])


async def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(parts_of)]


async def session_of(request: Request, parts: PartsOf) -> Session:
    """Raises NoSession."""
    return parts.sessions.open(request.cookies.get(parts.cookie_name(SESSION)))


SessionOf = Annotated[Session, Depends(session_of)]


async def trusted_session_of(
    session: SessionOf, parts: PartsOf, x_csrf_token: Annotated[str | None, Header(max_length=200)] = None
) -> Session:
    """The session of a request that changes something: it must hold the token that only our own page can read."""
    if not parts.sessions.is_csrf_token(session, x_csrf_token):
        raise Problematic(403, "x-csrf-token: missing or not of this session, please load the page again")
    return session


TrustedSession = Annotated[Session, Depends(trusted_session_of)]
