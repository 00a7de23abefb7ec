"""The web app as a whole, from its settings, a log and something that makes clips."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from configs.prompts import load_prompts
from feedback.agreement import AgreementShare
from feedback.answers import Answers
from feedback.meter import Meter
from feedback.pair_writer import Makers, PairWriter, StudyTask
from feedback.pool import Pool
from feedback.preference_log import PreferenceLog
from feedback.prompt_rules import PromptRules, load_blocklist
from feedback.rating_desk import RatingDesk
from feedback.repertoire import Repertoire
from feedback.restart import refill, resume_study
from feedback.sessions import Clock, Sessions
from feedback.settings import Settings
from feedback.studio import Studio
from feedback.threads import LogThreads
from feedback.web import admin_routes, listener_routes, page_routes, pair_routes, problems, study_routes
from feedback.web.guard import AddressHash, AddressLimit, BodyLimit, RateLimits, SecureHeaders
from feedback.web.parts import Parts

EXPORT_S = 600.0


def create_app(
    settings: Settings,
    log: PreferenceLog,
    makers: Makers,
    key: bytes,
    versions: dict[str, str],
    admin_token: str = "",
    clock: Clock = time.time,
    rng: random.Random | None = None,
) -> FastAPI:
    """versions: policy name -> content hash, of the policies that `makers` play. The log stays the caller's to close;
    the makers start and end with the app."""
    parts = _parts(settings, log, makers, key, versions, admin_token, clock, rng or random.SystemRandom())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.studio.start()
        yield
        await parts.studio.close()
        for threads in (parts.threads, parts.exports):
            threads.close()

    app = FastAPI(
        title="Listening room",
        description="Two clips, one question. Every refusal is {“error”: …}.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.parts = parts
    for routes in (page_routes, listener_routes, pair_routes, study_routes, admin_routes):
        app.include_router(routes.router)

    def count(status: int) -> None:
        parts.meter.refused.labels(str(status)).inc()

    problems.install(app, count)
    app.add_middleware(BodyLimit, on_refusal=count)  # each is laid around those before it
    app.add_middleware(AddressLimit, rates=settings.limits.requests, hash_of=parts.address_hash, on_refusal=count)
    app.add_middleware(SecureHeaders, https=settings.https)
    return app


def _parts(
    settings: Settings,
    log: PreferenceLog,
    makers: Makers,
    key: bytes,
    versions: dict[str, str],
    admin_token: str,
    clock: Clock,
    rng: random.Random,
) -> Parts:
    suggestions = load_prompts(settings.prompts.suggestions, field="prompts.suggestions")
    meter, threads = Meter(), LogThreads()
    meter.compare(versions)
    meter.watch("agreement", "share of two answers to one pair that prefer the same clip", AgreementShare(log, clock))
    pool = Pool(settings.pool.pairs, settings.pool.listeners)
    refill(pool, log, frozenset(suggestions), versions)
    desk, plan = _study(settings, log, versions)
    writer = PairWriter(makers, log, threads, Repertoire(settings.policy_folders, versions), rng, settings.same)
    studio = Studio(makers, writer, pool, suggestions, settings.maker, meter, rng, desk, plan)
    return Parts(
        settings=settings,
        log=log,
        threads=threads,
        exports=LogThreads(threads=1, deadline_s=EXPORT_S),
        sessions=Sessions(key, settings.session_days * 86400.0, clock),
        studio=studio,
        answers=Answers(log, threads, settings.heard, meter, clock),
        prompt_rules=PromptRules(settings.prompts.max_chars, load_blocklist(settings.prompts.blocklist)),
        suggestions=frozenset(suggestions),
        limits=RateLimits(),
        address_hash=AddressHash(settings.proxies),
        meter=meter,
        clock=clock,
        admin_token=admin_token,
        desk=desk,
    )


def _study(
    settings: Settings, log: PreferenceLog, versions: dict[str, str]
) -> tuple[RatingDesk | None, Sequence[StudyTask]]:
    if not settings.study.name:
        return None, ()
    desk = RatingDesk(settings.study.raters)
    return desk, resume_study(desk, log, settings.study, versions)
