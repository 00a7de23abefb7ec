"""Object storage as a run uses it: one prefix of one bucket, whole objects, and writes that can be made conditional.

    s3://BUCKET/PREFIX/NAME      NAME is a path below the run folder, such as checkpoints/step_50/manifest.json

Credentials come from the environment only (AWS_ACCESS_KEY_ID and its kin, a profile, the rights of the machine), the
endpoint of an S3-compatible server from AWS_ENDPOINT_URL_S3. Reads and writes go through s3fs; what a server answers
comes out as one line of `StoreError`.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.store_errors import Busy, Conflict, Missing, StoreError, explained

SCHEME = "s3://"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
ABSENT = "*"  # only_if: the object must not be there
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
BUSY_PAUSES_S = (0.2, 0.5, 1.0)  # between questions to a server that is busy
ATTEMPTS = 2  # of one request, where the connection broke; whoever can wait longer does so above this class
SMALL_BYTES = 32 * 2**20  # up to here one request, beyond it several parts
_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^?#]+?)/*")


def is_url(text: str | Path) -> bool:
    return "://" in str(text)


def split_url(url: str, field: str) -> tuple[str, str]:
    """s3://BUCKET/PREFIX -> (BUCKET, PREFIX). Raises UserError for anything else."""
    match = _PLACE.fullmatch(url)
    if match is None or any(part in ("", ".", "..") for part in match[2].split("/")):
        shown = re.sub(r"(://)[^/@]*@", r"\1***@", url)  # somebody may have put a password there
        raise UserError(f"{field}: got {shown!r}, allowed a local folder or s3://BUCKET/PREFIX")
    return match[1], match[2]


def use_endpoint(endpoint: str) -> None:
    """For this process, and those that it starts: an S3-compatible server. Empty: as the environment says."""
    if endpoint:
        os.environ[ENDPOINT_VARIABLES[0]] = endpoint


def endpoint_of_environment() -> str:
    """Empty: Amazon's own."""
    return next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")


def s3_files() -> Any:
    """s3fs with the environment's endpoint and credentials, short waits and no memory of what it listed."""
    who = tuple(os.environ.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE"))
    return _s3_files(endpoint_of_environment(), os.getpid(), who)


@functools.lru_cache(maxsize=8)
def _s3_files(endpoint: str, process: int, who: tuple[str, ...]) -> Any:
    """One for all stores of a process: it is slow to make, and safe to share between threads."""
    import s3fs  # here: it takes a second, and most commands never meet a URL

    timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, "retries": {"max_attempts": 1}}
    files = s3fs.S3FileSystem(
        endpoint_url=endpoint or None,
        config_kwargs=timeouts,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.retries = ATTEMPTS
    return files


@dataclass(frozen=True)
class Stored:
    """What a listing says of an object."""

    bytes: int
    etag: str


@dataclass(frozen=True)
class Content:
    """An object that was read. age_s: since it was written, by the server's clock alone."""

    data: bytes
    etag: str
    age_s: float


class ObjectStore:
    """Every call raises StoreError: Missing, Conflict, or in one line what the server or the network said.

    field: the setting that named the place, for error lines. Raises UserError for a malformed place.
    """

    def __init__(self, url: str, field: str = "run.dir") -> None:
        self._bucket, self._prefix = split_url(url, field)
        self.field = field
        self.url = f"{SCHEME}{self._bucket}/{self._prefix}"
        self._endpoint = endpoint_of_environment()
        self._files = s3_files()

    def names(self, under: str = "") -> dict[str, Stored]:
        """Every object whose name starts with `under`."""
        start = f"{self._prefix}/"
        found: dict[str, Stored] = {}
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", None, Prefix=start + under, **token)
            for entry in page.get("Contents", ()):
                found[entry["Key"].removeprefix(start)] = Stored(entry["Size"], entry["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return found
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, name: str) -> Content:
        """A small object."""
        import fsspec.asyn

        answer = self._call("get_object", name)
        data = self._asked("get_object", lambda: bytes(fsspec.asyn.sync(self._files.loop, answer["Body"].read)))
        return Content(data, answer["ETag"].strip('"'), _age_s(answer))

    def download(self, name: str, path: Path) -> None:
        """An object of any size into a file. What was there before goes; a failed download leaves a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._asked("get_object", lambda: self._files.get_file(self._key(name), str(path)))

    def upload(self, name: str, path: Path) -> str:
        """A file of any size, whole or not at all -> its ETag. Raises FileNotFoundError where there is none."""
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size <= SMALL_BYTES:
                return self.put(name, file.read())
        try:
            self._asked("put_object", lambda: self._files.put_file(str(path), self._key(name)))
        except StoreError as error:
            if not path.exists():
                raise FileNotFoundError(str(path)) from error
            raise
        return str(self._call("head_object", name)["ETag"]).strip('"')

    def put(self, name: str, data: bytes, only_if: str = "") -> str:
        """-> ETag. only_if: ABSENT, or the ETag of what is to be replaced; Conflict where that does not hold, and then
        nothing has changed. (A Conflict may also be the echo of an answer that got lost: whoever asks reads again.)"""
        condition = {} if not only_if else {"IfNoneMatch": "*"} if only_if == ABSENT else {"IfMatch": f'"{only_if}"'}
        try:
            return str(self._call("put_object", name, Body=data, **condition)["ETag"]).strip('"')
        except Missing as error:
            if only_if:
                raise Conflict(str(error)) from error
            raise

    def delete(self, names: Iterable[str]) -> None:
        """Names that are not there do no harm."""
        for name in names:
            self._call("delete_object", name)

    def _call(self, operation: str, name: str | None, **arguments: Any) -> Any:
        key = {} if name is None else {"Key": f"{self._prefix}/{name}"}
        return self._asked(operation, lambda: self._files.call_s3(operation, Bucket=self._bucket, **key, **arguments))

    def _asked(self, operation: str, ask: Callable[[], Any]) -> Any:
        """Asks a busy server again a few times. Raises StoreError."""
        for pause_s in (*BUSY_PAUSES_S, None):
            try:
                return ask()
            except Exception as error:  # botocore's, aiohttp's, the system's: `explained` knows them
                said = explained(error, operation, self._bucket, self._endpoint)
                if not isinstance(said, Busy) or pause_s is None:
                    raise said from error
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _key(self, name: str) -> str:
        return f"{self._bucket}/{self._prefix}/{name}"


def _age_s(answer: dict[str, Any]) -> float:
    written: datetime = answer["LastModified"]
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return max(0.0, (now - written).total_seconds())
