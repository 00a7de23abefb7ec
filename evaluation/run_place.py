"""A run folder that a command reads and adds to: on this disk, or on s3:// with a copy of what an evaluation needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from cluster.errors import RunFailed
from cluster.object_store import ObjectStore, is_url
from cluster.store_errors import StoreError
from cluster.working_copy import read_copy


class RunPlace:
    """text: a path, or s3://BUCKET/PREFIX. Raises UserError for a URL that cannot be read.

    folder: where its files lie on this machine: all of a local run; of a URL the tables, the clips, the manifests of
    checkpoints, and the policy of the newest.
    """

    def __init__(self, text: str, field: str = "RUN_DIR") -> None:
        self.name = text.rstrip("/") if is_url(text) else text
        self.folder = read_copy(text, _is_needed, field) if is_url(text) else Path(text)

    def publish(self, names: Iterable[str]) -> None:
        """Files that were written to `folder` are where the run is when this returns. Raises RunFailed."""
        if not is_url(self.name):
            return
        store = ObjectStore(self.name)
        try:
            for name in names:
                store.upload(name, self.folder / name)
        except StoreError as error:
            raise RunFailed(f"{self.name}: {error}; the files are in {self.folder}") from error

    def shown(self, path: Path) -> str:
        """A file of `folder`, as a person finds it."""
        return f"{self.name}/{path.relative_to(self.folder).as_posix()}" if is_url(self.name) else str(path)


def newest_checkpoint(names: Iterable[str]) -> int | None:
    """The newest step after 0 whose manifest (written last) is among the names of a run's files."""
    found = (re.fullmatch(r"checkpoints/step_([1-9]\d*)/manifest\.json", name) for name in names)
    return max((int(match[1]) for match in found if match), default=None)


def _is_needed(name: str, names: Collection[str]) -> bool:
    if not name.startswith("checkpoints/"):
        return not name.startswith((".", "replay/"))
    return name.endswith("/manifest.json") or name.startswith(f"checkpoints/step_{newest_checkpoint(names)}/policy/")
