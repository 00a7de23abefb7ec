"""`python -m feedback.main [key=value …]`: the listening app.

Exit status: 0 ended by Ctrl-C or SIGTERM, 1 started and failed, 2 bad input (before anything starts), 130 interrupted
before the page was ready.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from configs.command_line import exit_status_of
from feedback.settings import Settings, load_settings, usage

# Read by Serve's processes, which inherit them: half the time of a request, behind a proxy as before.
SERVE_TUNING = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    _heed_signals()
    return exit_status_of(lambda: _run(load_settings(words)), interrupted="ended before the page was ready")


def _run(settings: Settings) -> None:
    """Returns when it is interrupted."""
    print("checking models and the preference log …", flush=True)
    from cluster.session import ray_session  # from here on, so that a wrong key is answered before anything heavy loads
    from feedback.preflight import preflight

    for name, value in SERVE_TUNING.items():
        os.environ.setdefault(name, value)
    versions = preflight(settings)
    print("starting …", flush=True)
    with ray_session() as local:
        from feedback.serving import deploy, withdraw

        _heed_signals()  # Ray has put its own handler there, which reports a crash
        try:
            deploy(settings, versions, local)
            print(_ready(settings), flush=True)
            _wait_for_the_end()
        finally:
            withdraw()
    print("ended", flush=True)


def _heed_signals() -> None:
    """Ctrl-C and SIGTERM interrupt, also where a shell started us with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _wait_for_the_end() -> None:
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()


def _ready(settings: Settings) -> str:
    shown = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::") else settings.host
    url = f"http://{shown}:{settings.port}/"
    lines = []
    if os.environ.get("FEEDBACK_ADMIN_TOKEN"):
        lines.append(f"admin: {url}admin")
    if settings.study.name:
        lines.append(f"study: {url}study/{settings.study.name}")
    return "\n".join(["Ctrl-C ends the app", *lines, f"ready: {url}"])


if __name__ == "__main__":
    sys.exit(main())
