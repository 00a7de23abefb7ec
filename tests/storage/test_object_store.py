"""The store, on a real S3 interface: whole objects, conditions, and one line for whatever goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import object_store
from cluster.errors import UserError
from cluster.object_store import ABSENT, ObjectStore, split_url
from cluster.store_errors import Conflict, Missing, StoreError
from tests.storage.s3_server import (
    Answer,
    Request,
    S3Server,
    bad_credentials,
    deny_writes,
    skewed_clock,
    wrong_region,
)


@pytest.fixture
def store(server: S3Server) -> ObjectStore:
    return ObjectStore("s3://bucket/runs/a/")


def test_what_is_put_is_listed_read_and_deleted(store: ObjectStore) -> None:
    etag = store.put("x/one", b"abc")
    store.put("two", b"")
    assert {name: stored.bytes for name, stored in store.names().items()} == {"x/one": 3, "two": 0}
    assert list(store.names("x/")) == ["x/one"]
    content = store.read("x/one")
    assert (content.data, content.etag) == (b"abc", etag) and 0 <= content.age_s < 60
    store.delete(["x/one", "never there"])
    assert list(store.names()) == ["two"]
    with pytest.raises(Missing):
        store.read("x/one")


def test_a_prefix_does_not_see_its_neighbour(store: ObjectStore) -> None:
    ObjectStore("s3://bucket/runs/ab").put("other", b"1")
    assert store.names() == {}


def test_more_objects_than_one_page(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        store.put(f"{number}", b"")
    call = store._call
    monkeypatch.setattr(store, "_call", lambda *args, **kwargs: call(*args, MaxKeys=3, **kwargs))
    assert len(store.names()) == 7


def test_files_of_any_size(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "SMALL_BYTES", 1000)
    for name, size in (("small", 999), ("large", 5000)):
        (tmp_path / name).write_bytes(os.urandom(size))
        etag = store.upload(name, tmp_path / name)
        assert store.names()[name] == object_store.Stored(size, etag)
        store.download(name, tmp_path / "deep" / name)
        assert (tmp_path / "deep" / name).read_bytes() == (tmp_path / name).read_bytes()
    with pytest.raises(FileNotFoundError):
        store.upload("nothing", tmp_path / "nothing")
    with pytest.raises(Missing):
        store.download("nothing", tmp_path / "nothing")


def test_conditions_hold_or_change_nothing(store: ObjectStore) -> None:
    first = store.put("a", b"1", ABSENT)
    with pytest.raises(Conflict):
        store.put("a", b"2", ABSENT)
    second = store.put("a", b"3", first)
    for stale in (first, "0" * 32):
        with pytest.raises(Conflict):
            store.put("a", b"4", stale)
    assert store.read("a").data == b"3" and store.read("a").etag == second
    with pytest.raises(Conflict):
        store.put("never there", b"1", first)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (deny_writes, "bucket 'bucket' denies put_object (AccessDenied)"),
        (skewed_clock, "the clocks of this machine and of the server differ by 3600"),
        (wrong_region, "bucket 'bucket' is in eu-central-1, but AWS_REGION says us-west-7 ("),
        (bad_credentials, "the credentials of the environment are refused (InvalidAccessKeyId)"),
        (lambda request: Answer(500, "InternalError"), "answers put_object with InternalError"),
    ],
)
def test_what_a_server_answers_is_one_clear_line(
    store: ObjectStore, server: S3Server, monkeypatch: pytest.MonkeyPatch, fault: object, line: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-7")
    with server.faults(fault), pytest.raises(StoreError) as error:  # type: ignore[arg-type]
        store.put("a", b"1")
    assert line in str(error.value) and "\n" not in str(error.value)
    store.put("a", b"1")


def test_no_bucket_no_server_no_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="bucket 'nobody' does not exist at http://127"):
        ObjectStore("s3://nobody/run").names()
    store = ObjectStore("s3://bucket/run")
    server.stop()
    with pytest.raises(StoreError, match=rf"{server.url} cannot be reached \("):
        store.names()
    server.start()
    assert store.names() == {}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StoreError, match="no usable credentials in the environment"):
        ObjectStore("s3://bucket/run").names()


def test_a_server_that_is_busy_for_a_moment_is_asked_again(store: ObjectStore, server: S3Server) -> None:
    answered: list[Request] = []

    def busy(request: Request) -> Answer | None:
        answered.append(request)
        return Answer(500, "InternalError") if len(answered) <= 5 else None

    with server.faults(busy):
        store.put("a", b"1")
    assert len(answered) == 6 and store.read("a").data == b"1"


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "s3://b/x", "s3://bucket/a//b", "s3://bucket/../x", "gs://bucket/x", "s3://k:secret@bucket/x"]
)  # fmt: skip
def test_a_place_that_is_none_is_refused_without_telling_secrets(url: str) -> None:
    with pytest.raises(UserError, match=r"run\.dir: got .*, allowed a local folder or s3://BUCKET/PREFIX") as error:
        split_url(url, "run.dir")
    assert "secret" not in str(error.value)
