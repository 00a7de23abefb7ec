"""Side-by-side evaluation: a listener rates pair after pair, without ever knowing what made the clips."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feedback.errors import Refused
from feedback.rating_desk import RatingDesk
from feedback.sessions import Offer, Session
from feedback.web.messages import RatingIn, ReceiptOut, StudyOut, StudyState
from feedback.web.pair_routes import heard, require_consent
from feedback.web.parts import RATING, Parts, PartsOf, SessionOf, TrustedSession
from feedback.web.problems import Problematic, documented

router = APIRouter(prefix="/api/studies/{name}", tags=["study"])


@router.get("", responses=documented(401, 404, 429, 503))
async def read_study(name: str, request: Request, session: SessionOf, parts: PartsOf) -> StudyOut:
    """Where the listener is, with the pair that lies before them, the same after a reload."""
    desk = _desk(parts, name)
    offer = parts.offer_of(request, RATING, session)
    pair_id = offer.pair_id if offer is not None and await _is_open(parts, session, offer, name) else None
    return await _standing(parts, desk, session, pair_id)


@router.post("/pair", responses=documented(401, 403, 404, 429, 503))
async def draw_pair(
    name: str, request: Request, response: Response, session: TrustedSession, parts: PartsOf
) -> StudyOut:
    """The next pair to rate; the one that lies before the listener, as long as it is not rated."""
    desk = _desk(parts, name)
    await require_consent(parts, session)
    offer = parts.offer_of(request, RATING, session)
    if offer is not None and await _is_open(parts, session, offer, name):
        return await _standing(parts, desk, session, offer.pair_id)
    pair = desk.draw(session.listener_id)
    if pair is None:
        return await _standing(parts, desk, session, None)
    sealed = parts.sessions.seal_offer(Offer(pair.pair_id, session.listener_id, name, parts.clock()))
    parts.set_cookie(response, RATING, sealed, parts.session_s)
    return await _standing(parts, desk, session, pair.pair_id)


@router.post("/ratings", responses=documented(400, 401, 403, 404, 409, 410, 413, 422, 429, 503))
async def rate(
    name: str, body: RatingIn, request: Request, response: Response, session: TrustedSession, parts: PartsOf
) -> ReceiptOut:
    """Acknowledged only when it is durable; the same rating with its id counts once."""
    desk = _desk(parts, name)
    parts.limit(parts.settings.limits.votes, f"vote {session.listener_id}", "answers")
    offer = parts.offer_of(request, RATING, session)
    scores = (body.score_a, body.score_b)
    receipt = await parts.answers.rate(
        session.listener_id, offer, body.rating_id, body.pair_id, scores, heard(body.a), heard(body.b)
    )
    desk.rated(session.listener_id, body.pair_id)
    if offer is not None and offer.pair_id == body.pair_id:
        parts.drop_cookie(response, RATING)
    return ReceiptOut(record_id=receipt.record_id, recorded_at=receipt.recorded_at.isoformat())


def _desk(parts: Parts, name: str) -> RatingDesk:
    if parts.desk is None or name != parts.settings.study.name:
        raise Problematic(404, "study: no such study here")
    return parts.desk


async def _standing(parts: Parts, desk: RatingDesk, session: Session, pair_id: str | None) -> StudyOut:
    """Pairs that are still to be made count as open."""
    standing, unmade = desk.standing(session.listener_id), parts.studio.study_left
    if pair_id is not None:
        pair = await parts.pair_out(pair_id)
        return StudyOut(state="open", rated=standing.rated, open=max(1, standing.open + unmade), pair=pair)
    rated_all = standing.rated == len(desk) > 0 and not unmade
    state: StudyState = "open" if standing.open else "done" if rated_all or (desk.is_full and not unmade) else "waiting"
    return StudyOut(state=state, rated=standing.rated, open=standing.open + unmade)


async def _is_open(parts: Parts, session: Session, offer: Offer, name: str) -> bool:
    """The pair is of this study, still there, and the listener has not rated it."""
    if offer.study != name:
        return False
    try:
        await parts.answers.shown(offer.pair_id)
    except Refused:
        return False
    return await parts.threads.run(parts.log.rating_of, session.listener_id, offer.pair_id) is None
