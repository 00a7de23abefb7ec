"""Local copies of what lies on object storage, under one cache folder: MUSICRL_CACHE, else ~/.cache/musicrl.

runs/…      the folder in which a run on s3:// works, carried over by cluster.mirror
read/…      a run folder as somebody reads it, renewed at each reading
models/…    model folders, which are never changed: another content is another copy
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import UserError
from cluster.mirror_state import Known, MirrorState, scan
from cluster.object_store import ObjectStore, Stored, endpoint_of_environment, is_url, split_url
from cluster.store_errors import StoreError

CACHE_VARIABLE = "MUSICRL_CACHE"
DOWNLOADS_AT_ONCE = 8
_PART = ".part"


def use_cache(folder: str) -> None:
    """Lets this process, and those that it starts, keep copies there. Empty: as the environment says."""
    if folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder).expanduser().absolute())


def cache_root() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/musicrl").expanduser()


def working_folder(url: str, field: str) -> Path:
    """Where a run on `url` works on this machine. Raises UserError for a malformed URL."""
    return _folder_of("runs", url, field)


def read_copy(url: str, wanted: Callable[[str, Collection[str]], bool], field: str) -> Path:
    """A run folder as it is now -> a local folder with the files that are `wanted` (name, all names).

    Raises UserError where it cannot be read, or is none.
    """
    folder, store = _folder_of("read", url, field), ObjectStore(url, field)
    with _locked(folder):
        try:
            names = store.names()
            if "config.yaml" not in names:
                raise UserError(f"{field}: got {url!r}, which has no config.yaml; allowed the folder of an earlier run")
            state = MirrorState.load(folder, store.url)
            for name, file in scan(folder).items():
                if not state.is_current(name, file, names):
                    (folder / name).unlink()
            there = scan(folder)
            fetch(store, folder, {n: s for n, s in names.items() if n not in there and wanted(n, names)}, state)
            state.save()
        except StoreError as error:
            raise UserError(f"{field}: got {url!r}: {error}") from None
        except OSError as error:
            raise UserError(f"{field}: got {url!r}, which cannot be copied to {folder}: {error.strerror}") from None
    return folder


def local_copy(text: str | Path, field: str = "checkpoint") -> Path:
    """A folder: itself, or of s3://BUCKET/PREFIX a copy on this machine, whole and of just this content.

    Raises UserError where the URL holds nothing or cannot be read.
    """
    if not is_url(text):
        return Path(text)
    store = ObjectStore(str(text), field)
    try:
        names = store.names()
        if not names:
            raise UserError(f"{field}: got {str(text)!r}, which holds nothing")
        content = sorted((name, stored.etag) for name, stored in names.items())
        folder = _folder_of("models", store.url, field) / hashlib.sha256(repr(content).encode()).hexdigest()[:16]
        with _locked(folder):
            whole = folder / "content"
            if not whole.is_dir():
                shutil.rmtree(folder / "making", ignore_errors=True)
                fetch(store, folder / "making", names, MirrorState(folder, store.url))
                os.replace(folder / "making", whole)
    except StoreError as error:
        raise UserError(f"{field}: got {str(text)!r}: {error}") from None
    except OSError as error:
        raise UserError(f"{field}: got {str(text)!r}, which cannot be copied to {cache_root()}: {error}") from None
    return whole


def fetch(store: ObjectStore, folder: Path, names: Mapping[str, Stored], state: MirrorState) -> None:
    """Downloads objects into a folder; each file appears whole. Raises StoreError, OSError."""

    def one(name: str) -> None:
        path = folder / name
        part = path.with_name(f".{path.name}{_PART}")
        store.download(name, part)
        if part.stat().st_size != names[name].bytes:
            raise StoreError(f"{store.url}/{name} changed while it was read")
        os.replace(part, path)
        state.note(name, Known.of(path), names[name].etag)

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for done in [pool.submit(one, name) for name in names]:
            done.result()


def clear(folder: Path, keep: Iterable[str] = ()) -> None:
    """Empties a folder."""
    for path in folder.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _folder_of(kind: str, url: str, field: str) -> Path:
    bucket, prefix = split_url(url, field)
    server = hashlib.sha256(endpoint_of_environment().encode()).hexdigest()[:8]
    return cache_root() / kind / server / bucket / prefix


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
