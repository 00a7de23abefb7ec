"""`python -m learner.main [preset=NAME] [key=value …]`: one RL run.

Exit status: 0 finished, 1 started and failed, 2 bad input (before anything starts), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.errors import RunFailed, UserError
from configs.load import load_config
from configs.reference import usage


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    try:
        _run(words)
    except (UserError, RunFailed) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    return 0


def _run(words: Sequence[str]) -> None:
    config = load_config(words)
    from learner.preflight import preflight  # here, so that a wrong key is answered before anything heavy loads

    for note in preflight(config):
        print(note, flush=True)
    from learner.run import run

    run(config)


if __name__ == "__main__":
    sys.exit(main())
