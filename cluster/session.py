"""The connection of this process to Ray: to the cluster that a job runs on, or to one of its own.

Must be entered before anything imports ray: Ray reads its authentication mode from the environment at import.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

OBJECT_STORE_BYTES = 512 * 2**20


def joins_cluster() -> bool:
    """True inside a Ray job or with RAY_ADDRESS set; False: this process starts a small cluster for itself."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


@contextmanager
def ray_session() -> Iterator[bool]:
    """Connects; yields whether the cluster is this process's own, and leaves or stops it on the way out.

    An own cluster has no dashboard and a small object store, and is closed to others by a token that exists only in
    the environment of its processes. (Left unset, Ray would write ~/.ray/auth_token, and with that file every later
    `ray start` on the machine silently asks for tokens.)
    """
    local = not joins_cluster()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    else:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
    try:
        yield local
    finally:
        ray.shutdown()
