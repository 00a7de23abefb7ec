"""`python -m learner.main [preset=NAME] [key=value …]`: one RL run.

Exit status: 0 finished, 1 started and failed, 2 bad input (before anything starts), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from configs.command_line import exit_status_of
from configs.load import load_config
from configs.reference import usage


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    return exit_status_of(lambda: _run(words))


def _run(words: Sequence[str]) -> None:
    config = load_config(words)
    from learner.preflight import preflight  # here, so that a wrong key is answered before anything heavy loads
    from rewards.preference_registry import pin_checkpoint
    from rewards.registry import pin_checkpoints

    pin_checkpoints(config.rewards)
    config.guard.second_preference = pin_checkpoint(config.guard.second_preference, "guard.second_preference")
    for note in preflight(config):
        print(note, flush=True)
    from learner.run import run

    run(config)


if __name__ == "__main__":
    sys.exit(main())
