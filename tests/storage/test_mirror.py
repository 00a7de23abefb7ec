"""The mirror and the working folder, without a run: what is carried over when, in which order, and what is fetched."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunFailed, UserError
from cluster.lease import LEASE, LeaseLost
from cluster.object_store import ObjectStore
from cluster.remote_run import RemoteRun, Unheard, check_usable
from cluster.working_copy import local_copy, read_copy
from configs.schema import StorageConfig
from tests.storage.s3_server import Answer, Request, S3Server, Seeded, deny_writes

URL = "s3://bucket/run"
FILES = {
    "config.yaml": "a: 1",
    "metrics.jsonl": "row 1",
    "metrics.parquet": "1",
    "replay/log.jsonl": "commit",
    "replay/segment_000000.arrows": "full",
    "replay/segment_000001.arrows": "growing",
    "samples/step_0/a.wav": "la",
    "samples/step_0/samples.parquet": "index",
    "checkpoints/step_2/policy/model.safetensors": "weights",
    "checkpoints/step_2/manifest.json": "{}",
}
OF_THIS_MACHINE = (".lock", "replay/owner.json", "checkpoints/step_4.tmp/model.safetensors", ".samples.tmp/x.wav")


class Told(Unheard):
    """Keeps what a person was told."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.back = threading.Event()

    def storage_waits(self, url: str, cause: str, deadline_s: float) -> None:
        self.waits.append(cause)

    def storage_is_back(self, url: str, after_s: float) -> None:
        self.back.set()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """This process works on the machine `one`; called, on another."""

    def move(name: str) -> None:
        monkeypatch.setenv("MUSICRL_CACHE", str(tmp_path / name))

    move("one")
    return move


@pytest.fixture
def open_runs() -> Iterator[list[RemoteRun]]:
    runs: list[RemoteRun] = []
    yield runs
    for run in runs:
        run.close()


@pytest.fixture
def begin(server: S3Server, open_runs: list[RemoteRun]) -> Callable[..., RemoteRun]:
    """A new run, or one that goes on, with its mirror."""

    def make(epoch: str = "first", again: bool = False, told: Told | None = None, **settings: float) -> RemoteRun:
        run = RemoteRun(URL, StorageConfig(**{"upload_s": 0.1, "lease_s": 30.0, **settings}), epoch, "run.dir", told)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.claim_again(newest) if again else run.claim_new()
        open_runs.append(run)
        if not again:
            write(run.folder, FILES)
        run.start()
        return run

    return make


def newest(folder: Path) -> int | None:
    """The newest checkpoint whose tensors are there and not "broken"."""
    steps = [int(path.parent.name[5:]) for path in folder.glob("checkpoints/step_*/manifest.json")]
    whole = [s for s in steps if _read(folder / f"checkpoints/step_{s}/policy/model.safetensors") not in ("", "broken")]
    return max(whole, default=None)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def there(server: S3Server) -> dict[str, str]:
    return {
        name.removeprefix("run/"): data.decode() for name, data in server.objects("bucket").items() if LEASE not in name
    }


def flush(run: RemoteRun) -> None:
    asyncio.run(run.flush())


def puts(server: S3Server) -> list[str]:
    """Names in the order in which they were written."""
    return [r.path.removeprefix("/bucket/run/") for r in server.requests if r.method == "PUT" and LEASE not in r.path]


def test_a_flush_brings_over_all_that_belongs_to_the_run(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin()
    write(run.folder, dict.fromkeys(OF_THIS_MACHINE, "x"))
    flush(run)
    assert there(server) == FILES
    before = len(puts(server))
    flush(run)
    assert len(puts(server)) == before  # what is there is not sent again


def test_what_names_others_comes_after_them(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    flush(begin(upload_s=60.0))
    order = puts(server)
    named = [order.index(name) for name in FILES if name.endswith((".arrows", ".wav", ".safetensors"))]
    naming = [order.index(name) for name in ("replay/log.jsonl", "samples/step_0/samples.parquet", "metrics.jsonl")]
    assert max(named) < min(naming)
    assert order[-1] == "checkpoints/step_2/manifest.json"


def test_between_flushes_neither_manifests_nor_what_grows(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    begin()
    left_out = {"metrics.jsonl", "replay/log.jsonl", "replay/segment_000001.arrows", "checkpoints/step_2/manifest.json"}
    _until(lambda: there(server).keys() == FILES.keys() - left_out)
    time.sleep(0.5)
    assert there(server).keys() == FILES.keys() - left_out


def test_what_is_gone_here_goes_there_with_the_next_flush(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin()
    flush(run)
    for name in FILES:
        if name.startswith(("checkpoints/step_2", "replay/segment_000000")):
            (run.folder / name).unlink()
    (run.folder / "metrics.parquet").unlink()
    write(run.folder, {"checkpoints/step_4/policy/model.safetensors": "new", "checkpoints/step_4/manifest.json": "{}"})
    time.sleep(0.5)
    assert "replay/segment_000000.arrows" in there(server)
    flush(run)
    gone = {name for name in FILES if name not in there(server)}
    assert gone == {n for n in FILES if n.startswith(("checkpoints/step_2", "replay/segment_000000"))}
    assert "metrics.parquet" in there(server)  # a table never goes
    deleted = [r.path for r in server.requests if r.method == "DELETE"]
    assert deleted[0].endswith("step_2/manifest.json")


def test_a_checkpoint_made_again_replaces_the_old_one_without_a_mixture(
    begin: Callable[..., RemoteRun], server: S3Server
) -> None:
    run = begin()
    flush(run)
    write(run.folder, {f"checkpoints/step_2/policy/{name}": "other" for name in ("model.safetensors", "extra")})
    write(run.folder, {"checkpoints/step_2/manifest.json": "[]"})
    mixtures: list[dict[str, str]] = []

    def look(request: Request) -> None:
        now = {name: text for name, text in there(server).items() if "step_2/" in name}
        if now.get("checkpoints/step_2/manifest.json") == "{}" and "other" in now.values():
            mixtures.append(now)

    with server.faults(look):
        flush(run)
    assert not mixtures
    assert there(server)["checkpoints/step_2/manifest.json"] == "[]"
    (run.folder / "checkpoints/step_2/policy/extra").unlink()
    flush(run)
    assert "checkpoints/step_2/policy/extra" not in there(server)


def test_the_manifest_of_another_is_never_overwritten(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin(upload_s=60.0)
    ObjectStore(URL).put("checkpoints/step_2/manifest.json", b"of another")
    with pytest.raises(LeaseLost, match="another process has written"):
        flush(run)
    assert there(server)["checkpoints/step_2/manifest.json"] == "of another"


def test_after_a_lost_lease_nothing_is_written(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin(upload_s=60.0)
    content = json.loads(ObjectStore(URL).read(LEASE).data)
    ObjectStore(URL).put(LEASE, json.dumps({**content, "epoch": "other"}).encode())
    with pytest.raises(RunFailed, match="was taken over by"):
        flush(run)
    assert "checkpoints/step_2/manifest.json" not in there(server)
    with pytest.raises(RunFailed, match="was taken over by"):
        asyncio.run(asyncio.wait_for(run.watch(), 10))


def test_while_the_server_is_gone_a_flush_waits_and_nothing_is_lost(
    begin: Callable[..., RemoteRun], server: S3Server
) -> None:
    told = Told()
    run = begin(told=told)
    server.stop()
    request = run.mirror.flush()  # type: ignore[union-attr]
    _until(lambda: bool(told.waits))
    assert not request.done() and "cannot be reached" in told.waits[0]
    live = run.live()
    assert live["storage_waiting"] > 1 and live["storage_pending_bytes"] > 0
    server.start()
    request.result(60)
    assert told.back.wait(5) and there(server) == FILES
    assert run.live()["storage_waiting"] == 0 and len(told.waits) == 1


def test_a_bucket_that_is_read_only_for_a_while(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    told = Told()
    run = begin(told=told)
    with server.faults(deny_writes):
        request = run.mirror.flush()  # type: ignore[union-attr]
        _until(lambda: bool(told.waits))
        assert "denies put_object (AccessDenied)" in told.waits[0]
    request.result(60)
    assert there(server) == FILES


def test_after_the_deadline_it_is_over_in_one_line(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin(deadline_s=3.0)
    server.stop()
    with pytest.raises(RunFailed) as error:
        flush(run)
    line = str(error.value)
    assert " s (storage.deadline_s): " in line and str(run.folder) in line and "\n" not in line
    with pytest.raises(RunFailed, match="took no write"):
        asyncio.run(asyncio.wait_for(run.watch(), 10))
    server.start()


@pytest.mark.parametrize("seed", range(3))
def test_with_faults_by_seed_all_arrives(begin: Callable[..., RemoteRun], server: S3Server, seed: int) -> None:
    faults = Seeded(seed, share=0.15)
    run = begin()
    with server.faults(faults):
        for step in (4, 6):
            write(run.folder, {f"checkpoints/step_{step}/policy/{part}": f"{step}{part}" for part in "abcdef"})
            write(run.folder, {f"checkpoints/step_{step}/manifest.json": f"[{step}]"})
            flush(run)
    assert faults.failed > 0
    here = {p.relative_to(run.folder).as_posix(): p.read_text() for p in run.folder.rglob("*") if p.is_file()}
    assert there(server) == {name: text for name, text in here.items() if name != ".mirror.json"}


def test_the_same_machine_goes_on_with_what_was_not_uploaded(
    begin: Callable[..., RemoteRun], server: S3Server, open_runs: list[RemoteRun]
) -> None:
    run = begin(upload_s=60.0)
    flush(run)
    write(run.folder, {"replay/segment_000001.arrows": "growing and acknowledged"})
    _kill(run, open_runs)
    again = begin("second", again=True)
    assert _read(again.folder / "replay/segment_000001.arrows") == "growing and acknowledged"
    flush(again)
    assert there(server)["replay/segment_000001.arrows"] == "growing and acknowledged"


def test_killed_while_it_was_being_resumed_it_still_is_the_same_machine(
    begin: Callable[..., RemoteRun], open_runs: list[RemoteRun]
) -> None:
    run = begin(upload_s=60.0)
    flush(run)
    write(run.folder, {"replay/segment_000001.arrows": "acknowledged"})
    _kill(run, open_runs)
    for killed_at in ("settle", "keep"):  # the working folder has changed hands, the lease not yet; both have
        claimed = RemoteRun(URL, StorageConfig(), f"killed at {killed_at}", "run.dir")
        setattr(claimed._lease, killed_at, _die)
        with pytest.raises(Killed):
            claimed.claim_again(newest)
            claimed.start()
        _kill(claimed, open_runs)
    assert _read(begin("fourth", again=True).folder / "replay/segment_000001.arrows") == "acknowledged"


def test_another_machine_fetches_what_it_needs_and_deletes_nothing(
    begin: Callable[..., RemoteRun], server: S3Server, machine: Callable[[str], None], open_runs: list[RemoteRun]
) -> None:
    run = begin(upload_s=60.0)
    more = {f"samples/step_{step}/{name}": f"{step}" for step in (2, 4) for name in ("a.wav", "samples.parquet")}
    more |= {f"checkpoints/step_4/{name}": "{}" for name in ("policy/model.safetensors", "manifest.json")}
    write(run.folder, more)
    flush(run)
    write(run.folder, {"metrics.parquet": "newer", "replay/segment_000002.arrows": "never uploaded"})
    _kill(run, open_runs)
    server_has = there(server)
    machine("two")
    again = begin("second", again=True)
    here = {p.relative_to(again.folder).as_posix() for p in again.folder.rglob("*") if p.is_file()} - {".mirror.json"}
    not_needed = {"checkpoints/step_2/policy/model.safetensors", "samples/step_2/a.wav"}
    assert here == {*FILES, *more} - not_needed
    flush(again)
    assert there(server) == server_has


def test_a_machine_that_was_overtaken_forgets_what_it_had(
    begin: Callable[..., RemoteRun], machine: Callable[[str], None], open_runs: list[RemoteRun]
) -> None:
    run = begin(upload_s=60.0)
    flush(run)
    write(run.folder, {"replay/segment_000001.arrows": "of the old epoch"})
    _kill(run, open_runs)
    machine("two")
    other = begin("second", again=True)
    write(other.folder, {"replay/segment_000001.arrows": "of the second"})
    flush(other)
    _kill(other, open_runs)
    machine("one")
    assert _read(begin("third", again=True).folder / "replay/segment_000001.arrows") == "of the second"


def test_a_damaged_checkpoint_is_passed_over(
    begin: Callable[..., RemoteRun], machine: Callable[[str], None], open_runs: list[RemoteRun]
) -> None:
    run = begin()
    write(run.folder, {f"checkpoints/step_4/{n}": "broken" for n in ("policy/model.safetensors", "manifest.json")})
    flush(run)
    _kill(run, open_runs)
    machine("two")
    assert newest(begin("second", again=True).folder) == 2


def test_a_new_run_needs_an_empty_place(begin: Callable[..., RemoteRun], open_runs: list[RemoteRun]) -> None:
    run = begin()
    flush(run)
    with pytest.raises(UserError, match="in use by process"):
        begin("second")
    run.close()
    with pytest.raises(UserError, match="which is not empty; allowed a new or empty prefix"):
        begin("second")
    begin("third", again=True).close()  # the one that was refused has let go of it


def test_what_others_added_at_the_top_stays(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin()
    flush(run)
    run.close()
    ObjectStore(URL).put("evaluation_final.parquet", b"rows")
    again = begin("second", again=True)
    assert _read(again.folder / "evaluation_final.parquet") == "rows"
    flush(again)
    assert there(server)["evaluation_final.parquet"] == "rows"


def test_a_place_is_tried_before_anything_starts(server: S3Server) -> None:
    check_usable(URL, "run.dir")
    assert there(server) == {}
    with (
        server.faults(deny_writes),
        pytest.raises(UserError, match=r"run\.dir: got 's3://bucket/run': bucket 'bucket' denies"),
    ):
        check_usable(URL, "run.dir")

    def forgets_conditions(request: Request) -> Answer | None:
        return Answer(200, "", {"ETag": '"x"'}) if request.method == "PUT" else None

    with server.faults(forgets_conditions), pytest.raises(UserError, match="ignores conditional writes"):
        check_usable(URL, "run.dir")


def test_a_model_folder_is_copied_once_and_anew_when_it_changes(server: S3Server, tmp_path: Path) -> None:
    store = ObjectStore("s3://bucket/models/base")
    store.put("config.json", b"1")
    store.put("deep/weights", b"2")
    first = local_copy("s3://bucket/models/base")
    assert (_read(first / "config.json"), _read(first / "deep/weights")) == ("1", "2")
    reads = [r for r in server.requests if r.method == "GET" and "weights" in r.path]
    assert local_copy("s3://bucket/models/base/") == first
    assert [r for r in server.requests if r.method == "GET" and "weights" in r.path] == reads
    store.put("config.json", b"3")
    second = local_copy("s3://bucket/models/base")
    assert (_read(second / "config.json"), _read(first / "config.json")) == ("3", "1")
    assert local_copy(tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"policy\.checkpoint: got 's3://bucket/nothing', which holds nothing"):
        local_copy("s3://bucket/nothing", "policy.checkpoint")


def test_a_reader_gets_the_run_as_it_is_now(begin: Callable[..., RemoteRun], server: S3Server) -> None:
    run = begin()
    flush(run)

    def read(wanted: Callable[[str, Any], bool] = lambda name, _: not name.startswith("replay/")) -> Path:
        return read_copy(URL, wanted, "RUN_DIR")

    folder = read()
    assert folder != run.folder and not (folder / "replay").exists()
    write(run.folder, {"metrics.parquet": "2"})
    flush(run)
    assert _read(read() / "metrics.parquet") == "2"
    with pytest.raises(UserError, match=r"RUN_DIR: got 's3://bucket/none', which has no config\.yaml"):
        read_copy("s3://bucket/none", lambda name, names: True, "RUN_DIR")


class Killed(BaseException): ...


def _die() -> None:
    raise Killed


def _kill(run: RemoteRun, open_runs: list[RemoteRun]) -> None:
    """As kill -9 would: nothing more is written, and the lease stays as it is; only its owner is dead."""
    if run.mirror is not None:
        run.mirror._pass = lambda whole: None  # type: ignore[method-assign]
        run.mirror.close()
    if run in open_runs:
        open_runs.remove(run)
    run._lease._stop.set()
    store = ObjectStore(URL)
    content = json.loads(store.read(LEASE).data)
    content["owner"] |= {"started": 0.0}
    store.put(LEASE, json.dumps(content).encode())


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
