"""Who a listener is to the app, what they allow, and how they are forgotten."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feedback.errors import Reason, Refused
from feedback.records import Consent, Listener, ListenerKind
from feedback.sessions import NoSession, Session
from feedback.web.messages import ConsentIn, DeletionOut, SessionOut
from feedback.web.parts import PAIR, RATING, SESSION, Parts, PartsOf, TrustedSession, session_of
from feedback.web.problems import Problematic, documented

router = APIRouter(prefix="/api", tags=["listener"])


@router.get("/session", responses=documented(429, 503))
async def read_session(request: Request, response: Response, parts: PartsOf) -> SessionOut:
    """The page's first question. Gives a new listener a pseudonym; stores nothing."""
    try:
        session = await session_of(request, parts)
        consent = await _consent_of(parts, session)
    except (NoSession, _Gone):
        session, consent = _new_session(request, parts), None
        _seal(response, parts, session)
    else:
        if parts.sessions.is_aging(session):
            _seal(response, parts, parts.sessions.renewed(session))
    return SessionOut(
        csrf_token=parts.sessions.csrf_token(session),
        consent=consent,
        prompt_max_chars=parts.settings.prompts.max_chars,
        study=parts.settings.study.name,
        operator=parts.settings.operator,
    )


@router.put("/consent", responses=documented(400, 401, 403, 410, 413, 422, 429, 503))
async def choose_consent(body: ConsentIn, session: TrustedSession, parts: PartsOf) -> ConsentIn:
    """What the listener's votes may be used for. From here on the listener is in the log."""
    if body.group and body.group not in parts.settings.group_names:
        raise Problematic(422, "group: there is no such group here")
    if await _consent_or_none(parts, session) is None:
        listener = Listener(session.listener_id, ListenerKind.PERSON, body.consent, body.group)
        await parts.threads.run(parts.log.add_listener, listener)
    await parts.threads.run(parts.log.set_consent, session.listener_id, body.consent)
    return body


@router.delete("/votes", responses=documented(401, 403, 404, 410, 429, 503))
async def delete_votes(session: TrustedSession, parts: PartsOf, response: Response) -> DeletionOut:
    """Deletes the listener with all votes, ratings and own prompts; who goes on is a new listener."""
    deletion = await parts.threads.run(parts.log.delete_listener, session.listener_id)
    parts.answers.forget()
    parts.studio.forget(session.listener_id)
    if parts.desk is not None:
        parts.desk.forget(session.listener_id)
    for name in (SESSION, PAIR, RATING):
        parts.drop_cookie(response, name)
    return DeletionOut(votes=deletion.votes, ratings=deletion.ratings)


class _Gone(Exception):
    """The listener had themselves deleted, in another tab perhaps."""


def _new_session(request: Request, parts: Parts) -> Session:
    key = f"listener {parts.address_hash(request.scope)}"
    parts.limit(parts.settings.limits.listeners, key, "new listeners from your network")
    return parts.sessions.new()


def _seal(response: Response, parts: Parts, session: Session) -> None:
    parts.set_cookie(response, SESSION, parts.sessions.seal(session), parts.session_s)


async def _consent_of(parts: Parts, session: Session) -> Consent | None:
    """None before the first choice. Raises _Gone."""
    try:
        return await _consent_or_none(parts, session)
    except Refused as refused:
        if refused.reason is Reason.GONE:
            raise _Gone from None
        raise


async def _consent_or_none(parts: Parts, session: Session) -> Consent | None:
    try:
        listener = await parts.threads.run(parts.log.listener, session.listener_id)
    except Refused as refused:
        if refused.reason is Reason.UNKNOWN:
            return None
        raise
    return listener.consent
