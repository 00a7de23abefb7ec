"""One program on all nodes: an actor that would run another one is refused before it does anything.

Nodes can differ in the project's code (an image of last week) and in the packages that decide numbers and protocols.
What a run computes and what its actors say to each other are only defined between equal ones.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "cluster", "codec", "world", "policy", "rewards", "evaluation", "actors", "learner")
PACKAGES = ("torch", "ray", "numpy", "pyarrow", "scipy")

Actor = TypeVar("Actor", bound=type)


@functools.cache
def program_of(root: Path = PROJECT_ROOT) -> dict[str, str]:
    """What decides how an actor behaves: {"program": twelve hex digits over all source files, "torch": "2.13.0", …}."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    packages = {name: _installed(name) for name in PACKAGES}
    return {"program": digest.hexdigest()[:12], "python": ".".join(platform.python_version_tuple()[:2]), **packages}


def require(expected: dict[str, str], found: dict[str, str], where: str) -> None:
    """Raises UserError, naming the first difference."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise UserError(f"{name}: got {found.get(name, 'none')} on node {where}, allowed {value}, the driver's")


def only_here_as(cls: Actor, expected: dict[str, str]) -> Actor:
    """`cls` whose actors refuse to be built where another program runs. It travels to the node by value, so that it
    also refuses where the program is too old to know of this."""

    class Checked(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            import ray

            from cluster.program import program_of, require

            require(expected, program_of(), ray.util.get_node_ip_address())
            super().__init__(*args, **kwargs)

    Checked.__name__, Checked.__qualname__, Checked.__doc__ = cls.__name__, cls.__qualname__, cls.__doc__
    return Checked  # type: ignore[return-value]


def _sources(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted(path for path in (root / folder).rglob("*.py") if path.is_file())


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
