"""Free use: ask for a pair, see how far it is, vote."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feedback.answers import Heard
from feedback.errors import Reason, Refused
from feedback.prompt_rules import PromptRefused
from feedback.records import Consent, Listener, Pair
from feedback.sessions import Offer, Session
from feedback.waiting_line import Busy
from feedback.waiting_line import Request as Asked
from feedback.web.messages import AskIn, HeardIn, ReceiptOut, StateOut, SuggestionsOut, VoteIn
from feedback.web.parts import PAIR, Parts, PartsOf, SessionOf, TrustedSession
from feedback.web.problems import Problematic, documented

router = APIRouter(prefix="/api", tags=["pairs"])

SUGGESTIONS = 6
RETRY_S = 10


@router.get("/suggestions", responses=documented(401, 429))
async def suggest(session: SessionOf, parts: PartsOf) -> SuggestionsOut:
    """Prompts to start from; those first whose clips are there already."""
    return SuggestionsOut(prompts=parts.studio.suggestions(session.listener_id, SUGGESTIONS))


@router.get("/pair", responses=documented(401, 429, 503))
async def read_pair(request: Request, response: Response, session: SessionOf, parts: PartsOf) -> StateOut:
    """The pair that lies before the listener, the same after a reload; else how far the next one is."""
    offer = parts.offer_of(request, PAIR, session)
    if offer is not None:
        if await _is_open(parts, session, offer):
            pair = await parts.pair_out(offer.pair_id)
            return StateOut(state="ready", prompt=pair.prompt, pair=pair)
        parts.drop_cookie(response, PAIR)
    asked = parts.studio.request_of(session.listener_id)
    return await _state(parts, response, session, asked)


@router.post("/pair", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def ask_for_pair(body: AskIn, response: Response, session: TrustedSession, parts: PartsOf) -> StateOut:
    """A new pair, of a prompt or of any suggested one. It is there at once, or `GET /api/pair` tells how far it is."""
    prompt = _clean(parts, body.prompt)
    listener = await require_consent(parts, session)
    parts.limit(parts.settings.limits.prompts, f"prompt {session.listener_id}", "requests")
    group = listener.group if listener.consent is Consent.PERSONAL else ""
    try:
        asked = parts.studio.ask(session.listener_id, prompt, group)
    except Busy:
        problem = "many people are waiting for clips right now, please try again soon or take a suggestion"
        raise Problematic(503, problem, RETRY_S) from None
    if asked.pair is None:
        parts.drop_cookie(response, PAIR)  # the pair before, if there was one, is given up
    return await _state(parts, response, session, asked)


@router.post("/votes", responses=documented(400, 401, 403, 404, 409, 410, 413, 422, 429, 503))
async def vote(
    body: VoteIn, request: Request, response: Response, session: TrustedSession, parts: PartsOf
) -> ReceiptOut:
    """Acknowledged only when it is durable. The same vote may be sent again with its id: it counts once."""
    parts.limit(parts.settings.limits.votes, f"vote {session.listener_id}", "answers")
    offer = parts.offer_of(request, PAIR, session)
    a, b = heard(body.a), heard(body.b)
    receipt = await parts.answers.vote(session.listener_id, offer, body.vote_id, body.pair_id, body.choice, a, b)
    if offer is not None and offer.pair_id == body.pair_id:
        parts.drop_cookie(response, PAIR)
    parts.studio.answered(session.listener_id, body.pair_id)
    return ReceiptOut(record_id=receipt.record_id, recorded_at=receipt.recorded_at.isoformat())


def heard(body: HeardIn) -> Heard:
    return Heard(body.clip_id, body.played)


def _clean(parts: Parts, prompt: str | None) -> str | None:
    """A suggestion is taken as it is. Raises Problematic (422) for what nobody may write."""
    if prompt is None or prompt in parts.suggestions:
        return prompt
    try:
        return parts.prompt_rules.clean(prompt)
    except PromptRefused as refused:
        raise Problematic(422, str(refused)) from None


async def require_consent(parts: Parts, session: Session) -> Listener:
    """Raises Problematic before a choice, and after a deletion."""
    try:
        return await parts.threads.run(parts.log.listener, session.listener_id)
    except Refused as refused:
        if refused.reason is Reason.UNKNOWN:
            raise Problematic(403, "consent: choose first what your answers may be used for") from None
        raise Problematic(401, "these answers were deleted, please load the page again") from None


async def _is_open(parts: Parts, session: Session, offer: Offer) -> bool:
    """The pair is still there, and the listener has not answered it."""
    try:
        await parts.answers.shown(offer.pair_id)
    except Refused:
        return False
    return await parts.threads.run(parts.log.vote_of, session.listener_id, offer.pair_id) is None


async def _state(parts: Parts, response: Response, session: Session, asked: Asked | None) -> StateOut:
    if asked is None:
        return StateOut(state="none")
    if asked.pair is not None:
        _offer(parts, response, session, asked.pair)
        return StateOut(state="ready", prompt=asked.prompt, pair=await parts.pair_out(asked.pair.pair_id))
    ahead = parts.studio.ahead_of(asked)
    return StateOut(state=asked.stage.value, prompt=asked.prompt, ahead=ahead, message=asked.problem)


def _offer(parts: Parts, response: Response, session: Session, pair: Pair) -> None:
    offer = Offer(pair.pair_id, session.listener_id, pair.study, parts.clock())
    parts.set_cookie(response, PAIR, parts.sessions.seal_offer(offer), parts.session_s)
