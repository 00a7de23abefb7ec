"""Every version of the preference model: where it is, what it learnt from, how good it is, whether it serves.

    REGISTRY/versions/VERSION/entry.json    what is known of the version, written once a change
    REGISTRY/versions/VERSION/model/        config.json, model.safetensors, training.json
    REGISTRY/current.json                   the version that serves: one small file, replaced in one step

A refused version stays, with the reason. REGISTRY is a local folder or a URL of fsspec (s3://bucket/path). A reward's
checkpoint may be given as `registry:current` or `registry:VERSION` (of runs/preference/registry), or with a folder,
`registry:DIR@current`; a run keeps the version that it found when it began.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from cluster.errors import UserError
from cluster.object_store import SCHEME, endpoint_of_environment, is_url, s3_files
from cluster.storage import write_bytes_atomic
from cluster.store_errors import explained
from rewards.checkpoint import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

DEFAULT_REGISTRY = "runs/preference/registry"
PREFIX = "registry:"
HOW_TO_MAKE_ONE = "make one with: python -m rewards.train preference pairs=FILE.parquet"
_FILES = (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE)


@dataclass(frozen=True)
class Entry:
    """One version. status: "candidate" (not judged), "passed" (by the gate) or "refused"."""

    version: str
    data: str  # hash of the votes it learnt from
    votes: int
    settings: dict[str, Any]
    figures: dict[str, Any]
    parent: str = ""  # version that it follows
    status: str = "candidate"
    reason: str = ""
    verdict: dict[str, Any] = field(default_factory=dict)  # what the gate's answer rests on
    added: str = ""  # UTC, ISO 8601


class Registry:
    """The versions under one folder or URL."""

    def __init__(self, place: str | Path = DEFAULT_REGISTRY) -> None:
        self.place = str(place).rstrip("/")
        self._local = not is_url(self.place)
        if self.place.startswith(SCHEME):
            self._files, self._root = s3_files(), self.place.removeprefix(SCHEME)
        else:
            self._files, self._root = fsspec.core.url_to_fs(self.place)

    def add(self, directory: str | Path, parent: str = "") -> Entry:
        """Enters the trained model in `directory` as a candidate; a version that is there already stays as it is."""
        training = _read_json(Path(directory) / TRAINING_FILE)
        version = str(training["version"])
        if self._exists(f"versions/{version}/entry.json"):
            return self.entry(version)
        for name in _FILES:
            self._write(f"versions/{version}/model/{name}", (Path(directory) / name).read_bytes())
        entry = Entry(
            version,
            training["data"],
            training["votes"],
            training["settings"],
            training["figures"],
            parent or self.current_version,
            added=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        )
        self._put(entry)  # last: an entry is there when its model is whole
        return entry

    def judge(self, version: str, passed: bool, reason: str, verdict: dict[str, Any]) -> Entry:
        """Keeps the gate's answer; a version that passed becomes the current one."""
        status = "passed" if passed else "refused"
        entry = replace(self.entry(version), status=status, reason=reason, verdict=verdict)
        self._put(entry)
        if passed:
            self._write("current.json", json.dumps({"version": version}).encode())
        return entry

    def serve(self, version: str) -> None:
        """Makes an older version that passed the current one again. Raises UserError for one that did not."""
        entry = self.entry(version)
        if entry.status != "passed":
            raise UserError(
                f"registry: got version {version}, which is {entry.status}, allowed one that passed the gate"
            )
        self._write("current.json", json.dumps({"version": version}).encode())

    @property
    def current_version(self) -> str:
        """The version that serves; empty before the first."""
        return str(json.loads(self._read("current.json"))["version"]) if self._exists("current.json") else ""

    def entry(self, version: str) -> Entry:
        """Raises UserError for an unknown version."""
        if not self._exists(f"versions/{version}/entry.json"):
            known = ", ".join(entry.version for entry in self.entries()) or "none"
            raise UserError(f"registry: got version {version!r} in {self.place}, allowed one of it ({known})")
        return Entry(**json.loads(self._read(f"versions/{version}/entry.json")))

    def entries(self) -> list[Entry]:
        """All versions, oldest first."""
        found = self._answered(lambda: self._files.glob(f"{self._root}/versions/*/entry.json"))
        entries = [Entry(**json.loads(self._answered(partial(self._files.cat_file, path)))) for path in found]
        return sorted(entries, key=lambda entry: (entry.added, entry.version))

    def directory(self, version: str) -> Path:
        """A local directory with the version's model; one of a URL is fetched into the temporary folder once."""
        self.entry(version)
        if self._local:
            return Path(self._root) / "versions" / version / "model"
        folder = Path(tempfile.gettempdir()) / f"preference-{os.getuid()}" / version  # a version names its content
        for name in _FILES:
            if not (folder / name).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                temporary = folder / f".{name}.{os.getpid()}"
                temporary.write_bytes(self._read(f"versions/{version}/model/{name}"))
                temporary.replace(folder / name)
        return folder

    def _put(self, entry: Entry) -> None:
        text = json.dumps(asdict(entry), indent=1, ensure_ascii=False)
        self._write(f"versions/{entry.version}/entry.json", text.encode())

    def _exists(self, name: str) -> bool:
        return bool(self._answered(lambda: self._files.exists(f"{self._root}/{name}")))

    def _read(self, name: str) -> bytes:
        return bytes(self._answered(lambda: self._files.cat_file(f"{self._root}/{name}")))

    def _write(self, name: str, data: bytes) -> None:
        """Whole or not at all: by rename in a folder, by one object on object storage."""
        if self._local:
            write_bytes_atomic(Path(self._root) / name, data)
        else:
            self._answered(lambda: self._files.pipe_file(f"{self._root}/{name}", data))

    def _answered(self, ask: Callable[[], Any]) -> Any:
        """Raises UserError, in one line, for what object storage answers instead."""
        if not self.place.startswith(SCHEME):
            return ask()
        try:
            return ask()
        except Exception as error:  # s3fs's, botocore's, the network's: `explained` knows them
            said = explained(error, "access", self._root.split("/")[0], endpoint_of_environment())
            raise UserError(f"registry: {self.place}: {said}") from error


def resolve_checkpoint(text: str, field: str = "rewards.preference.checkpoint") -> str:
    """`registry:…` -> a local directory with the version that it means now; any other text unchanged.

    Raises UserError where there is no such version, with the way to make one.
    """
    if not text.startswith(PREFIX):
        return text
    registry, version = _meant(text, field)
    return str(registry.directory(version))


def pin_checkpoint(text: str, field: str = "rewards.preference.checkpoint") -> str:
    """`registry:…` -> text that goes on meaning the version of now; any other unchanged. Raises UserError."""
    if not text.startswith(PREFIX):
        return text
    registry, version = _meant(text, field)
    return f"{PREFIX}{registry.place}@{version}" if "://" in registry.place else str(registry.directory(version))


def _meant(text: str, field: str) -> tuple[Registry, str]:
    place, _, name = text.removeprefix(PREFIX).rpartition("@")
    registry = Registry(place or DEFAULT_REGISTRY)
    version = registry.current_version if name in ("", "current") else name
    if not version:
        raise UserError(f"{field}: got {text!r}, but {registry.place} serves no version yet; {HOW_TO_MAKE_ONE}")
    try:
        return registry, registry.entry(version).version
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"registry: {path} cannot be read ({error}), allowed a trained preference model's") from None
