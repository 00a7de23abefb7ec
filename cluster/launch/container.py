"""Rules for the container file and the constraints: the same software on every node, whenever it is started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from cluster.launch.constraints import direct_requirements, read_constraints
from cluster.launch.documents import Finding
from cluster.launch.rules import image_findings

CONSTRAINTS = "cluster/launch/constraints.txt"


def container_findings(text: str) -> list[Finding]:
    """Everything wrong with a container file."""
    return list(_container(re.sub(r"\\\n", " ", text)))


def _container(text: str) -> Iterator[Finding]:
    instructions = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages = [words[1].split() for words in instructions if words[0] == "FROM"]
    names = {words[2] for words in stages if len(words) == 3}
    if not stages:
        yield Finding("FROM", "got nothing, allowed a pinned image")
    for words in stages:
        if words[0] not in names:
            yield from image_findings("FROM", words[0])
    users = [words[1] for words in instructions if words[0] == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        yield Finding("USER", "got root, allowed a user without privileges")
    for words in instructions:
        if words[0] == "ADD":
            yield Finding("ADD", "got a download or an archive, allowed COPY")
        if words[0] == "RUN" and "pip install" in words[1] and CONSTRAINTS.rsplit("/", 1)[1] not in words[1]:
            yield Finding("RUN", f"got pip install without {CONSTRAINTS}: what is newest that day")
        if words[0] in ("ENV", "ARG") and re.search(r"(TOKEN|PASSWORD|SECRET)\s*=?\s*\S", words[1]):
            yield Finding(words[0], "got a secret, allowed none in an image")


def constraints_findings(path: Path) -> list[Finding]:
    """The pins cover what the project asks for, in versions that it takes."""
    pins = read_constraints(path)
    found = []
    for requirement in direct_requirements():
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            found.append(Finding(requirement.name, "got no pin, allowed NAME==VERSION: pyproject.toml asks for it"))
        elif not requirement.specifier.contains(pin, prereleases=True):
            found.append(Finding(requirement.name, f"got {pin}, allowed {requirement.specifier}, as in pyproject.toml"))
    return found
