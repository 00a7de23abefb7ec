"""`python -m cluster.launch.constraints`: the exact versions that every node installs, as they are installed here.

Written to cluster/launch/constraints.txt, so that all nodes of a cluster run the same code whenever they are started.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from configs.command_line import exit_status_of
from configs.errors import UserError

PROJECT = "musicrl-on-ray"
EXTRAS = ("postgres",)
FILE = Path(__file__).with_name("constraints.txt")
HEADER = (
    "# Exact versions for every node. Made by: python -m cluster.launch.constraints > cluster/launch/constraints.txt\n"
)


def read_constraints(path: Path = FILE) -> dict[str, Version]:
    """Versions by canonical name. Raises UserError for a line that pins nothing."""
    versions: dict[str, Version] = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, equals, version = line.partition("==")
        if not equals:
            raise UserError(f"{path.name}: got {line!r}, allowed NAME==VERSION")
        versions[canonicalize_name(name)] = Version(version)
    return versions


def ray_version() -> str:
    """The one Ray version of all nodes."""
    return str(read_constraints()["ray"])


def direct_requirements(project: str = PROJECT) -> list[Requirement]:
    """What the project itself asks for, extras for clusters included."""
    return _requirements_of(project, EXTRAS)


def installed_versions(project: str = PROJECT) -> dict[str, Version]:
    """Every distribution that the project needs, with the version installed here, by canonical name."""
    found: dict[str, Version] = {}
    asked: dict[str, set[str]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(project, frozenset(EXTRAS))]
    while waiting:
        name, extras = waiting.pop()
        for requirement in _requirements_of(name, tuple(extras)):
            key = canonicalize_name(requirement.name)
            if key in found and requirement.extras <= asked[key]:
                continue
            asked[key] = asked.get(key, set()) | requirement.extras
            # a local part such as +cpu names one build of a version, not the version
            found[key] = Version(Version(importlib.metadata.version(key)).public)
            waiting.append((key, frozenset(asked[key])))
    return found


def _requirements_of(name: str, extras: tuple[str, ...]) -> list[Requirement]:
    """Requirements of a distribution that apply on this machine."""
    requirements = [Requirement(text) for text in importlib.metadata.requires(name) or []]
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [each for each in requirements if each.marker is None or any(map(each.marker.evaluate, environments))]


def _print() -> None:
    lines = [f"{name}=={version}" for name, version in sorted(installed_versions().items())]
    print(HEADER + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(exit_status_of(_print))
