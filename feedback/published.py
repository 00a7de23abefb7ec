"""Policies that the listening app plays: every version with its facts, and which one is current.

    PLACE/versions/VERSION/policy/...      config.json, model.safetensors, vocabulary.json
    PLACE/versions/VERSION/entry.json      what is known of it
    PLACE/current.json                     group -> version; "" for everybody

A version is named by its content and appears whole, by one rename; the pointer is one small file, replaced in one step.
Nothing is ever removed: a clip that is voted on later can always be traced to the policy that played it. One process
publishes at a time, any number read. PLACE is a local folder, or one that all who read it share.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.storage import sync, write_text_atomic

PREFIX = "registry:"
EVERYBODY = ""  # the group of who belongs to none
PREVIOUS = "@previous"
_FILES = ("config.json", "model.safetensors", "vocabulary.json")
_UNDER_WAY = ".publishing-"


@dataclass(frozen=True)
class PublishedPolicy:
    """One version. parent: the version that it was tuned from; "" for the first."""

    version: str
    parent: str = ""
    group: str = EVERYBODY
    facts: dict[str, Any] = field(default_factory=dict)  # its reward, data and run
    added: str = ""  # UTC, ISO 8601


class PublishedPolicies:
    """The versions under one folder."""

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)

    def publish(
        self, policy_dir: str | Path, parent: str = "", group: str = EVERYBODY, facts: dict[str, Any] | None = None
    ) -> PublishedPolicy:
        """Enters the policy of a folder and makes it current for `group`; one that is there already is only made so.

        Raises UserError, with nothing changed, for a folder that holds no whole policy.
        """
        from policy.checkpoint import load_policy, policy_version

        load_policy(policy_dir)
        entry = PublishedPolicy(
            policy_version(policy_dir), parent, group, facts or {}, datetime.now(UTC).isoformat(timespec="microseconds")
        )
        self._enter(Path(policy_dir), entry)
        self.serve(entry.version, group)
        return self.entry(entry.version)

    def serve(self, version: str, group: str = EVERYBODY) -> None:
        """Makes a version the current one of a group. Raises UserError for one that is not there."""
        self.entry(version)
        text = json.dumps({**self._current(), group: version}, indent=1)
        write_text_atomic(self.place / "current.json", text + "\n")

    def current(self, group: str = EVERYBODY) -> str:
        """The version that plays to a group: its own, or else everybody's; "" before the first."""
        versions = self._current()
        return versions.get(group, versions.get(EVERYBODY, ""))

    def groups(self) -> list[str]:
        """Groups with a policy of their own."""
        return sorted(group for group in self._current() if group != EVERYBODY)

    def previous(self) -> str:
        """The version that everybody's current one was tuned from; itself where it is the first."""
        version = self.current()
        parent = self.entry(version).parent if version else ""
        return parent if parent and self._entry_file(parent).is_file() else version

    def entry(self, version: str) -> PublishedPolicy:
        """Raises UserError for an unknown version."""
        path = self._entry_file(version)
        if not version or not path.is_file():
            raise UserError(f"published: got version {version!r}, allowed one of {self.place} ({self._known()})")
        return PublishedPolicy(**json.loads(path.read_text(encoding="utf-8")))

    def entries(self) -> list[PublishedPolicy]:
        """All versions, oldest first."""
        found = [self.entry(path.parent.name) for path in self.place.glob("versions/*/entry.json")]
        return sorted(found, key=lambda entry: (entry.added, entry.version))

    def directory(self, version: str) -> Path:
        """The folder of a version's policy. Raises UserError for an unknown one."""
        self.entry(version)
        return self.place / "versions" / version / "policy"

    def _enter(self, policy_dir: Path, entry: PublishedPolicy) -> None:
        """The version's folder, whole or not at all; one that is there stays as it is."""
        folder = self.place / "versions" / entry.version
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_over in folder.parent.glob(f"{_UNDER_WAY}*"):  # of a publisher that was killed
            shutil.rmtree(left_over)
        if folder.exists():
            return
        under_way = folder.parent / f"{_UNDER_WAY}{os.getpid()}"
        (under_way / "policy").mkdir(parents=True)
        for name in _FILES:
            shutil.copyfile(policy_dir / name, under_way / "policy" / name)
            sync(under_way / "policy" / name)
        write_text_atomic(under_way / "entry.json", json.dumps(asdict(entry), indent=1) + "\n")
        sync(under_way / "policy")
        under_way.rename(folder)
        sync(folder.parent)

    def _entry_file(self, version: str) -> Path:
        return self.place / "versions" / version / "entry.json"

    def _known(self) -> str:
        return ", ".join(entry.version for entry in self.entries()) or "none"

    def _current(self) -> dict[str, str]:
        """Group -> version. Raises UserError where the file is none of ours."""
        path = self.place / "current.json"
        try:
            return {str(group): str(version) for group, version in json.loads(path.read_text("utf-8")).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"published: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
