"""Questions to a Prometheus server over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from configs.errors import UserError

ASK_S = 10.0


class Refused(Exception):
    """Prometheus does not take a query; its own words say why."""


def ask_prometheus(url: str, path: str, **parameters: str | float) -> list[dict[str, Any]]:
    """The series of the answer to `path` ("query", "query_range"). Raises Refused; UserError: no Prometheus there."""
    question = f"{url.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        try:
            with urllib.request.urlopen(question, timeout=ASK_S) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:  # a query that it refuses comes with the reason
            reason = str(json.load(error)["error"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"prometheus: got {url!r}, which does not answer as Prometheus does: {error}") from None
    raise Refused(reason)
