"""Which version of each policy the app plays now: that of a folder, or the one that a registry says is current.

    policies=base=assets/tiny/policy              a folder, as it was when the app started
    policies=loop=registry:runs/loop/published    the newest version, whenever it changes
    policies=old=registry:PLACE@previous          the one before it

A version that a listener's group has to itself is played to them alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.errors import UserError
from feedback.published import EVERYBODY, PREFIX, PREVIOUS, PublishedPolicies

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class Repertoire:
    """policies: name -> folder or registry:PLACE. versions: those that were found when the app started, by name."""

    def __init__(
        self, policies: Mapping[str, str], versions: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.names = tuple(policies)
        self._versions = dict(versions)
        self._followed = {name: place for name, place in policies.items() if is_followed(place)}
        self._of_groups: dict[str, dict[str, str]] = {}
        self._clock, self._looked_at = clock, -float("inf")
        self.look()

    @property
    def versions(self) -> dict[str, str]:
        """What is played to everybody, by name."""
        return dict(self._versions)

    def version(self, name: str, group: str = EVERYBODY) -> str:
        """The version of a policy that is played to a group."""
        return self._of_groups.get(group, {}).get(name, self._versions[name])

    def has_own(self, group: str) -> bool:
        """A policy is played to this group alone."""
        return group in self._of_groups

    def look(self) -> bool:
        """Reads the registries, at most once a second. -> True if something changed for everybody.

        A registry that cannot be read leaves what is played as it was.
        """
        if not self._followed or self._clock() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at, before = self._clock(), dict(self._versions)
        try:
            self._versions |= {name: followed_version(place) for name, place in self._followed.items()}
            self._of_groups = self._read_groups()
        except (UserError, OSError) as error:
            log.warning("policies: %s", error)
        return self._versions != before

    def _read_groups(self) -> dict[str, dict[str, str]]:
        """Group -> policy name -> the version of its own."""
        found: dict[str, dict[str, str]] = {}
        for name, place in self._followed.items():
            registry = registry_of(place)
            for group in () if place.endswith(PREVIOUS) else registry.groups():
                found.setdefault(group, {})[name] = registry.current(group)
        return found


def is_followed(place: str) -> bool:
    """`registry:…`, not a folder."""
    return place.startswith(PREFIX)


def registry_of(place: str) -> PublishedPolicies:
    """The registry that `registry:PLACE` or `registry:PLACE@previous` names."""
    return PublishedPolicies(Path(place.removeprefix(PREFIX).removesuffix(PREVIOUS)))


def followed_version(place: str) -> str:
    """The version that `registry:…` means now. Raises UserError before the first is published."""
    registry = registry_of(place)
    version = registry.previous() if place.endswith(PREVIOUS) else registry.current()
    if not version:
        raise UserError(f"got {place}, where nothing is published yet; allowed a registry of `python -m feedback.loop`")
    return version


def folder_of(place: str, version: str = "") -> Path:
    """Where a policy's files are: the folder itself, or a registry's version (empty: the one that it means now)."""
    if not is_followed(place):
        return Path(place)
    return registry_of(place).directory(version or followed_version(place))
