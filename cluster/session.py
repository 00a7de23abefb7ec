"""The connection of this process to Ray: to the cluster that a job runs on, or to one of its own.

Best entered before anything imports ray, which reads its authentication mode at import.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 512 * 2**20
PROJECT_ROOT = Path(__file__).resolve().parents[1]
# Idle OpenMP threads sleep instead of spinning, because another role has its turn on the same core. Read when torch
# loads. How many threads there are, each actor sets itself.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}


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
    if local:
        _prepare_own_environment()
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    else:
        ray.init(os.environ.get("RAY_ADDRESS", "auto"), **quiet)
    try:
        yield local
    finally:
        ray.shutdown()


def _prepare_own_environment() -> None:
    """What the processes of an own cluster inherit."""
    if "RAY_AUTH_MODE" not in os.environ:
        late = "ray" in sys.modules  # then this process has made up its mind already: no tokens
        os.environ["RAY_AUTH_MODE"] = "disabled" if late else "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves actors beside any other program
    os.environ.update(PASSIVE_THREADS)
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(PROJECT_ROOT), path) if part)
