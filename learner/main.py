"""`python -m learner.main [preset=NAME] [key=value …]`: one RL run.

Exit status: 0 finished, 1 started and failed, 2 bad input (before anything starts), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.object_store import is_url, use_endpoint
from cluster.working_copy import read_copy, use_cache
from configs.command_line import exit_status_of
from configs.load import CONFIG_FILE, load_config
from configs.reference import usage


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (the process's own by default) -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    return exit_status_of(lambda: _run(words))


def _run(words: Sequence[str]) -> None:
    config = load_config(words, located)
    use_endpoint(config.storage.endpoint)
    use_cache(config.storage.cache)
    from learner.preflight import adopt_codec, preflight  # here: a wrong key is answered before anything heavy loads
    from rewards.preference_registry import pin_checkpoint
    from rewards.registry import pin_checkpoints

    adopt_codec(config)
    pin_checkpoints(config.rewards)
    config.guard.second_preference = pin_checkpoint(config.guard.second_preference, "guard.second_preference")
    for note in preflight(config):
        print(note, flush=True)
    from learner.run import run

    run(config)


def located(place: str, given: Mapping[str, Any]) -> Path:
    """Where the config of an earlier run can be read. Raises UserError."""
    use_endpoint(str(given.get("storage.endpoint", "")))
    use_cache(str(given.get("storage.cache", "")))
    return read_copy(place, lambda name, _: name == CONFIG_FILE, "run.resume") if is_url(place) else Path(place)


if __name__ == "__main__":
    sys.exit(main())
