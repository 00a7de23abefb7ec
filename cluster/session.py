"""The connection of this process to Ray: to the cluster that a job runs on, or to one of its own.

Best entered before anything imports ray, which reads its authentication mode at import.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import RunFailed

START_ATTEMPTS = 3  # Ray gives its own daemons 30 s to come up, a fixed number, which a busy machine can exceed
OBJECT_STORE_BYTES = 512 * 2**20
PROJECT_ROOT = Path(__file__).resolve().parents[1]
# Idle OpenMP threads sleep instead of spinning, because another role has its turn on the same core. Read when torch
# loads. How many threads there are, each actor sets itself.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}


def joins_cluster() -> bool:
    """True inside a Ray job or with RAY_ADDRESS set; False: this process starts a small cluster for itself."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


@contextmanager
def ray_session(environment: Mapping[str, str] | None = None, store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[bool]:
    """Connects; yields whether the cluster is this process's own, and leaves or stops it on the way out.

    environment: variables for the processes on the nodes of a cluster of others; store_bytes: of an own cluster's
    object store.
    An own cluster has no dashboard and a small object store, and is closed to others by a token that exists only in
    the environment of its processes. (Left unset, Ray would write ~/.ray/auth_token, and with that file every later
    `ray start` on the machine silently asks for tokens.)

    Raises RunFailed where Ray does not start, or the cluster does not answer.
    """
    local = not joins_cluster()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        _prepare_own_environment()
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        _start(lambda: ray.init("local", include_dashboard=False, object_store_memory=store_bytes, **quiet))
    else:
        address = os.environ.get("RAY_ADDRESS", "auto")
        quiet |= {"runtime_env": {"env_vars": dict(environment)}} if environment else {}
        _start(lambda: ray.init(address, **quiet), attempts=1, what=f"could not connect to the cluster at {address}")
    try:
        yield local
    finally:
        ray.shutdown()


def _start(init: Callable[[], object], attempts: int = START_ATTEMPTS, what: str = "did not start") -> None:
    """Calls `init` until it succeeds, and ends the daemons that a failed attempt leaves, which would be in the next
    one's way. Raises RunFailed."""
    reason = ""
    for _ in range(attempts):
        before = {process.pid for process in psutil.Process().children()}
        try:
            init()
            return
        except Exception as error:  # what Ray raises here is sometimes a bare Exception
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        _end_children(but=before)
    tried = f" in {attempts} attempts" if attempts > 1 else ""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    raise RunFailed(f"ray: {what}{tried} (load {load} on {os.cpu_count()} CPUs): {reason}")


def _end_children(but: set[int]) -> None:
    """Kills the processes below this one, except those in `but` and what is below them."""
    new = [child for child in psutil.Process().children() if child.pid not in but]
    for process in [*new, *(below for child in new for below in child.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(new, timeout=5.0)


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
