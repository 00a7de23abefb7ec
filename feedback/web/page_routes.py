"""The pages, their files, and the clips. No name, header or id here says what made a clip."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from feedback.web.messages import HealthOut
from feedback.web.parts import PartsOf, SessionOf
from feedback.web.problems import Problematic, documented

router = APIRouter()

PAGES = Path(__file__).resolve().parents[1] / "page"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
REVALIDATE = {"cache-control": "no-cache"}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}


@router.get("/", include_in_schema=False)
async def listen() -> Response:
    return _html("index.html")


@router.get("/study/{name}", include_in_schema=False)
async def study(name: str, parts: PartsOf) -> Response:
    if not parts.settings.study.name or name != parts.settings.study.name:
        raise Problematic(404, "study: no such study here")
    return _html("study.html")


@router.get("/page/{name}", include_in_schema=False)
async def asset(name: str) -> Response:
    path = PAGES / name
    if name not in _assets():
        raise Problematic(404, "not found")
    return FileResponse(path, media_type=KINDS[path.suffix], headers=REVALIDATE)


@router.get(
    "/clips/{clip_id}.flac",
    tags=["pairs"],
    response_class=FileResponse,
    responses={200: {"content": {"audio/flac": {}}}, **documented(401, 404, 416, 429, 503)},
)
async def clip(clip_id: str, session: SessionOf, parts: PartsOf, request: Request) -> FileResponse:
    """The sound of a clip, whole or by range."""
    path = await parts.answers.sound(clip_id)
    return FileResponse(path, media_type="audio/flac", headers={**FOR_EVER, "etag": f'"{clip_id}"'})


@router.get("/health", tags=["operation"], responses=documented(429, 503))
async def health(parts: PartsOf) -> HealthOut:
    """200 while answers can be saved; whether clips can be made is a word in it."""
    await parts.threads.run(parts.log.ping)
    return HealthOut(status="ok", makers_up=parts.studio.is_up)


@lru_cache
def _assets() -> frozenset[str]:
    return frozenset(path.name for path in PAGES.iterdir() if path.suffix in KINDS)


def _html(name: str) -> FileResponse:
    return FileResponse(PAGES / name, media_type="text/html", headers=REVALIDATE)
