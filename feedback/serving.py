"""The app on Ray Serve: one replica answers requests, Ray actors make clips.

    browser ──HTTP──▶ Serve proxy ──▶ replica (FastAPI app, Studio, preference log) ──▶ ClipMaker actors

The replica keeps nothing that the log or a listener's cookie does not hold as well. Killed, it is replaced by Serve
within seconds, and its makers, which it owns, with it; pages retry meanwhile.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException

from cluster.errors import RunFailed
from feedback.maker_actors import clip_makers
from feedback.preference_log import PreferenceLog
from feedback.sessions import load_key
from feedback.settings import Settings
from feedback.web.app import create_app

APP, DEPLOYMENT = "feedback", "ListeningApp"
ADMIN_TOKEN = "FEEDBACK_ADMIN_TOKEN"
READY_S = 120.0
NO_ACCESS_LOG = {"log_level": "WARNING", "enable_access_log": False}
STREAMS = 200  # requests under way in the replica


class ListeningApp:
    """The replica: opens the log, then answers."""

    def __init__(self, settings: Settings, versions: dict[str, str], admin_token: str, local: bool) -> None:
        self._settings, self._versions, self._admin_token, self._local = settings, versions, admin_token, local
        self._log = PreferenceLog.open(settings.log_url, settings.audio_dir)

    def __serve_build_asgi_app__(self) -> FastAPI:
        makers = clip_makers(self._settings, self._local)
        key = load_key(Path(self._settings.log.dir))
        return create_app(self._settings, self._log, makers, key, self._versions, self._admin_token)


def application(
    settings: Settings, versions: Mapping[str, str], local: bool, resources: Mapping[str, float]
) -> Application:
    """The app as Serve runs it. resources: Ray's, of the node where the files of the log are."""
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=STREAMS,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
        logging_config=NO_ACCESS_LOG,
        ray_actor_options={"num_cpus": 0, "resources": dict(resources)},
    )(serve.ingress()(ListeningApp))
    return deployment.bind(settings, dict(versions), os.environ.get(ADMIN_TOKEN, ""), local)


def deploy(settings: Settings, versions: Mapping[str, str], local: bool) -> None:
    """Starts Serve and the app on this node; returns when the page is there.

    Raises RunFailed where it is not within two minutes.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    http = HTTPOptions(host=settings.host, port=settings.port, keep_alive_timeout_s=65)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=NO_ACCESS_LOG)
    own_node = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    serve.run(application(settings, versions, local, own_node), name=APP, route_prefix="/")
    _await_page(settings)


def withdraw() -> None:
    """Ends the app and lets its replica close the log; Serve itself stays with the cluster."""
    with suppress(RayError, RayServeException):
        serve.delete(APP)


def _await_page(settings: Settings) -> None:
    """Raises RunFailed where the page does not answer."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    url = f"http://[{host}]:{settings.port}/health" if ":" in host else f"http://{host}:{settings.port}/health"
    give_up = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > give_up:
                raise RunFailed(f"the page did not answer within {READY_S:.0f} s: {error}") from None
        time.sleep(0.2)
