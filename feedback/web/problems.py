"""Every refusal in one shape: {"error": …}, with Retry-After where trying again helps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from feedback.errors import Refused, Unavailable
from feedback.sessions import NoSession
from feedback.web.messages import Problem

log = logging.getLogger(__name__)

STALE = "your session has ended, please load the page again"


class Problematic(Exception):
    """A request that is answered with a refusal."""

    def __init__(self, status: int, error: str, retry_after_s: int = 0) -> None:
        super().__init__(error)
        self.status, self.error, self.retry_after_s = status, error, retry_after_s


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the API's schema."""
    return {status: {"model": Problem} for status in statuses}


def install(app: FastAPI, on_refusal: Callable[[int], None]) -> None:
    """Makes every exception an answer of that shape."""

    def answer(status: int, error: str, retry_after_s: int = 0, headers: Any = None) -> JSONResponse:
        on_refusal(status)
        extra = {"retry-after": str(retry_after_s)} if retry_after_s else {}
        return JSONResponse({"error": error}, status, {**(headers or {}), **extra})

    @app.exception_handler(Problematic)
    async def problematic(_: Request, error: Problematic) -> JSONResponse:
        return answer(error.status, error.error, error.retry_after_s)

    @app.exception_handler(NoSession)
    async def no_session(_: Request, error: NoSession) -> JSONResponse:
        return answer(401, STALE)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return answer(error.status, str(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        log.warning("%s", error)
        return answer(error.status, "answers cannot be saved right now, please try again", error.retry_after_s)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, _first_of(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.exception("unexpected", exc_info=error)
        return answer(500, "something went wrong here, please try again")


def _first_of(error: RequestValidationError) -> str:
    """The first thing found wrong: field and rule, without what was sent."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body" and not isinstance(part, int))
    return f"{place or 'body'}: {first['msg']}"
