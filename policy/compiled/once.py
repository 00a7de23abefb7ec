"""Compiles a function for this processor the first time it is called, and keeps the result on disk.

Numba looks at the file of a function alone to see whether what it kept is out of date. The kernels are spread over
several files and inline one another, so the folder that they are kept in is named after all of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Decorator: a function of numba that lets other threads run while it does."""
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_folder())  # type: ignore[attr-defined]
    try:
        return numba.njit(cache=True, nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def _folder() -> Path:
    """The first of the usual places that can be written to."""
    digest, here = hashlib.sha256(), Path(__file__).parent
    for file in sorted(here.glob("*.py")):
        digest.update(file.read_bytes())
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for place in (here / "__pycache__", user / "musicrl_on_ray"):
        folder = place / digest.hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="musicrl_kernels_"))
