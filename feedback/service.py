"""The listening app where Serve already runs (a RayService): `import_path: feedback.service:listening_app`.

Its `args` are the settings of `python -m feedback.main`; `host` and `port` are Serve's own there. What should not stand
in a file comes from the environment: FEEDBACK_LOG_URL (the database) and FEEDBACK_ADMIN_TOKEN.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ray.serve import Application

from feedback.preflight import check_parts
from feedback.serving import application
from feedback.settings import load_settings

LOG_URL = "FEEDBACK_LOG_URL"
PLACE = {"listening": 0.001}  # resource of the node that keeps the log: cluster/launch/kubernetes/ray-service.yaml


def listening_app(args: Mapping[str, str]) -> Application:
    """args: setting -> value, as on a command line. Raises UserError for the first thing found wrong."""
    words = [f"{key}={value}" for key, value in args.items()]
    if os.environ.get(LOG_URL):
        words.append(f"log.url={os.environ[LOG_URL]}")
    settings = load_settings(words)
    return application(settings, check_parts(settings), local=False, resources=PLACE)
