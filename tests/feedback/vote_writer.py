"""Writes votes and prints each once it is acknowledged: `python -m … URL AUDIO LISTENER FIRST LAST`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from feedback.preference_log import PreferenceLog
from tests.feedback.log_parts import vote_of

THREADS = 4


def write_votes(url: str, audio_dir: str, listener: str, first: int, last: int) -> None:
    """Prints the id of each vote once its receipt is there."""
    log = PreferenceLog.open(url, audio_dir, deadline_s=20)

    def write(number: int) -> str:
        return log.record_vote(vote_of(number, listener)).record_id

    print("open", flush=True)
    with ThreadPoolExecutor(THREADS) as pool:
        for vote_id in pool.map(write, range(first, last)):
            print(vote_id, flush=True)
    log.close()


if __name__ == "__main__":
    write_votes(*sys.argv[1:4], *map(int, sys.argv[4:6]))
