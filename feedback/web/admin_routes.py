"""For who runs the app: counts, agreement, the export. Behind a token from the environment; without one, not there."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from feedback.preference_log import PreferenceLog
from feedback.sessions import NoSession
from feedback.summary import Summary, summarise
from feedback.web.messages import Preferred, RatedOut, SummaryOut, TokenIn
from feedback.web.page_routes import PAGES, REVALIDATE
from feedback.web.parts import ADMIN, Parts, PartsOf
from feedback.web.problems import Problematic, documented

router = APIRouter(tags=["admin"])

ADMIN_S = 8 * 3600
LOGINS = "10/minute"
PARQUET = "application/vnd.apache.parquet"
FILES = {200: {"content": {PARQUET: {}}}, **documented(401, 404, 429, 503)}


async def require_admin(request: Request, parts: PartsOf, authorization: Annotated[str, Header()] = "") -> None:
    """A bearer token, or the cookie that a login leaves. Raises Problematic (404 without admin pages, 401)."""
    if not parts.admin_token:
        raise Problematic(404, "not found")
    if not (_is_bearer(parts, authorization) or _has_cookie(parts, request)):
        raise Problematic(401, "admin: log in first")


Admin = Depends(require_admin)


@router.get("/admin", include_in_schema=False)
async def page(parts: PartsOf) -> Response:
    if not parts.admin_token:
        raise Problematic(404, "not found")
    return FileResponse(PAGES / "admin.html", media_type="text/html", headers=REVALIDATE)


@router.post("/api/admin/login", responses=documented(400, 401, 404, 413, 422, 429, 503))
async def login(body: TokenIn, request: Request, response: Response, parts: PartsOf) -> SummaryOut:
    """Leaves a cookie for eight hours; answers as the summary does."""
    if not parts.admin_token:
        raise Problematic(404, "not found")
    parts.limit(LOGINS, f"admin {parts.address_hash(request.scope)}", "attempts")
    if not _equal(body.token, parts.admin_token):
        raise Problematic(401, "token: not the one of this app")
    sealed = parts.sessions.seal_admin(parts.clock() + ADMIN_S)
    parts.set_cookie(response, ADMIN, sealed, ADMIN_S, strict=True)
    return await summary(parts)


@router.get("/api/admin/summary", dependencies=[Admin], responses=documented(401, 404, 429, 503))
async def summary(parts: PartsOf) -> SummaryOut:
    """What has been collected so far."""
    study = parts.settings.study.name
    return _out(await parts.threads.run(summarise, parts.log, study), study)


@router.get("/api/admin/votes.parquet", dependencies=[Admin], response_class=FileResponse, responses=FILES)
async def export_votes(parts: PartsOf) -> Response:
    """What a preference model learns from: votes of listeners who allow it."""
    return await _export(parts, "votes", _write_votes)


@router.get("/api/admin/ratings.parquet", dependencies=[Admin], response_class=FileResponse, responses=FILES)
async def export_ratings(parts: PartsOf) -> Response:
    """What systems are compared by: all ratings."""
    return await _export(parts, "ratings", _write_ratings)


@router.get("/metrics", tags=["operation"], response_class=Response, responses=documented(401, 404, 429))
async def metrics(request: Request, parts: PartsOf, authorization: Annotated[str, Header()] = "") -> Response:
    """For Prometheus: from this machine freely, from elsewhere with the admin token as bearer."""
    if not (_is_local(request) or _is_bearer(parts, authorization)):
        raise Problematic(401, "metrics: the admin token is needed from other machines")
    text = await parts.exports.run(parts.meter.text)  # agreement reads the log
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _export(parts: Parts, name: str, write: Callable[[PreferenceLog, Path], None]) -> Response:
    """Written beside the log, sent, removed."""
    path = Path(parts.settings.log.dir) / f".{name}-{secrets.token_hex(8)}.parquet"
    await parts.exports.run(write, parts.log, path)
    removal = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type=PARQUET, filename=f"{name}.parquet", background=removal)


def _write_votes(log: PreferenceLog, path: Path) -> None:
    from feedback.training_table import export_pairs  # loads torch, which answering votes does not need

    export_pairs(log, path)


def _write_ratings(log: PreferenceLog, path: Path) -> None:
    from feedback.rating_export import export_ratings

    export_ratings(log, path)


def _out(found: Summary, study: str) -> SummaryOut:
    return SummaryOut(
        listeners=found.counts.listeners,
        clips=found.counts.clips,
        pairs=found.counts.pairs,
        votes=found.counts.votes,
        choices=found.choices,
        ratings=found.counts.ratings,
        agreeing=found.agreeing,
        compared=found.compared,
        preferred=[Preferred(policy=name, **tally._asdict()) for name, tally in found.tallies.items()],
        study=study,
        study_raters={str(raters): items for raters, items in sorted(found.study_raters.items())},
        study_means=[
            RatedOut(policy=name, mean=fmean(scores), ratings=len(scores))
            for name, scores in sorted(found.study_scores.items())
        ],
    )


def _is_bearer(parts: Parts, authorization: str) -> bool:
    kind, _, token = authorization.partition(" ")
    return bool(parts.admin_token) and kind.lower() == "bearer" and _equal(token.strip(), parts.admin_token)


def _has_cookie(parts: Parts, request: Request) -> bool:
    try:
        return parts.sessions.open_admin(request.cookies.get(parts.cookie_name(ADMIN))) > parts.clock()
    except NoSession:
        return False


def _is_local(request: Request) -> bool:
    """Asked for on this machine itself, not through a proxy on it."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return address.is_loopback and "x-forwarded-for" not in request.headers


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
