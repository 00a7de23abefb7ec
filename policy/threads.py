"""Rows of a batch worked on side by side, on as many threads as torch was given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def share_rows(rows: int, least: int, work: Callable[[int, int], None]) -> None:
    """Calls work(begin, end) over parts of range(rows), none below `least` rows, each on a thread of its own.

    Raises what the first failing part raises.
    """
    parts = max(1, min(torch.get_num_threads(), rows // least))
    if parts == 1:
        return work(0, rows)
    edges = [rows * part // parts for part in range(parts + 1)]
    for done in [_pool().submit(work, *edges[part : part + 2]) for part in range(parts)]:
        done.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=256, thread_name_prefix="rows")  # threads start as they are needed
