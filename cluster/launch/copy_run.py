"""`python -m cluster.launch.copy_run run=runs/NAME to=s3://BUCKET/NAME`: a run folder to where it outlives its cluster.

Run as a job on the learner's node, where the folder is. Any file system that fsspec knows is a target: s3:// (with the
node's own rights), gs:// (gcsfs, as cluster/launch/gcp.yaml installs it), a path.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from cluster.errors import RunFailed
from configs.command_line import exit_status_of, parse_settings
from configs.errors import UserError


@dataclass(frozen=True)
class Settings:
    run: str = ""
    to: str = ""


def copy_run(run: Path, to: str) -> int:
    """Copies every file that is not there in the same size -> how many were copied.

    Raises UserError: no run folder, or a target that cannot be used. RunFailed: the target refused a file.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"run: got {str(run)!r}, allowed a run folder")
    try:
        target, root = fsspec.url_to_fs(to)
        there = {name.removeprefix(root).lstrip("/"): facts["size"] for name, facts in _files(target, root).items()}
    except (ImportError, ValueError) as error:
        raise UserError(f"to: got {to!r}: {error}") from None
    except OSError as error:
        raise UserError(f"to: got {to!r}, which cannot be read: {error}") from None
    # manifests and the report name other files: they go last, so that what is there is whole
    files = sorted((path for path in run.rglob("*") if path.is_file()), key=lambda path: (path.suffix == ".json", path))
    waiting = [path for path in files if there.get(str(path.relative_to(run))) != path.stat().st_size]
    for path in waiting:
        goal = f"{root}/{path.relative_to(run)}"
        try:
            target.makedirs(goal.rsplit("/", 1)[0], exist_ok=True)
            target.put_file(str(path), goal)
        except OSError as error:
            raise RunFailed(f"{path}: could not be copied to {to}: {error}; run the same command again") from error
    return len(waiting)


def _files(target: fsspec.AbstractFileSystem, root: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = target.find(root, detail=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status_of(lambda: _copy(parse_settings(words, Settings())))


def _copy(settings: Settings) -> None:
    for field in ("run", "to"):
        if not getattr(settings, field):
            raise UserError(f"{field}: got nothing, allowed {'a run folder' if field == 'run' else 'a path or a URL'}")
    copied = copy_run(Path(settings.run), settings.to)
    print(f"{copied} files copied to {settings.to}")


if __name__ == "__main__":
    sys.exit(main())
