"""What holds for every launch file, whatever starts it: pinned images, closed ports, tokens, groups for the roles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cluster.launch.constraints import ray_version
from cluster.launch.documents import FILL_IN, Finding, leaves
from cluster.placement import GROUPS
from configs.command_line import nearest

WORLD = ("0.0.0.0/0", "::/0")
FLOATING_TAGS = ("latest", "nightly", "master", "main", "stable")
OWN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
_IMAGE = re.compile(r"(?P<name>[^@\s]+?)(:(?P<tag>[\w][\w.-]*))?(@sha256:(?P<digest>[0-9a-f]{64}))?")


def image_findings(field: str, image: str) -> Iterator[Finding]:
    """An image is pinned by a version or a digest; Ray's own is of the version that nodes install."""
    match = _IMAGE.fullmatch(image.replace(FILL_IN, "fill-in"))
    tag, digest = (match["tag"], match["digest"]) if match else (None, None)
    if digest is None and (tag is None or tag.split("-")[0] in FLOATING_TAGS):
        yield Finding(field, f"got {image!r}, allowed an image with a version or a digest: NAME:1.2.3 or NAME@sha256:…")
    elif image.startswith("rayproject/ray") and tag is not None and tag.split("-")[0] != ray_version():
        yield Finding(field, f"got {image!r}, allowed Ray {ray_version()}, as in cluster/launch/constraints.txt")


def world_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """No rule lets the whole world in."""
    for path, value in leaves(document):
        if value in WORLD:
            yield Finding(
                path, f"got {value}, open to the world; allowed the addresses of those who work on the cluster"
            )


def literal_token_findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """The token itself stands in no launch file."""
    for path, value in leaves(document):
        if isinstance(value, str) and re.search(r"RAY_AUTH_TOKEN=\S", value):
            yield Finding(path, "got a token in the file, allowed a mounted file or a Secret")


def group_findings(field: str, offered: Mapping[str, Mapping[str, float]], resources_field: str) -> Iterator[Finding]:
    """Each role finds a group: `offered` has the custom resources of each worker group by its name.

    field: where the groups stand; resources_field: where a group says what it offers.
    """
    for name, resources in offered.items():
        custom = [resource for resource in resources if resource not in OWN_RESOURCES]
        for resource in custom:
            if resource not in GROUPS:
                near = nearest(resource, GROUPS)
                yield Finding(
                    f"{field}.{name}.{resources_field}", f"got {resource!r}{near}; allowed {', '.join(GROUPS)}"
                )
        if not custom:
            yield Finding(
                f"{field}.{name}.{resources_field}",
                f"got none that placement asks for, allowed one of {', '.join(GROUPS)}: no role would land here",
            )
    names = {resource for resources in offered.values() for resource in resources}
    for group in GROUPS:
        if group not in names:
            yield Finding(field, f"got no group with the resource {group!r}, allowed one at least: a run needs it")


def range_findings(field: str, least: object, most: object, words: tuple[str, str]) -> Iterator[Finding]:
    """`least` is not above `most`; words: their names."""
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield Finding(f"{field}.{words[0]}", f"got {least}, allowed at most {words[1]}, {most}")


def idle_findings(field: str, value: object, most: float, unit: str) -> Iterator[Finding]:
    """Nodes without work are given back, within `most`."""
    if not isinstance(value, int | float) or not 0 < value <= most:
        got = "nothing" if value is None else value
        yield Finding(field, f"got {got}, allowed above 0 and at most {most:g} {unit}: idle nodes cost")


def first(values: Iterable[Finding]) -> list[Finding]:
    """Findings without repeats, in order."""
    return list(dict.fromkeys(values))
