"""What a person types: wrong places answered in one line before anything starts, and commands that read from s3://."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from cluster.errors import UserError
from configs.load import load_config, stored_yaml
from configs.schema import CodecConfig, Config, PolicyConfig, PromptsConfig, RewardConfig
from evaluation.main import main as evaluate
from learner.main import main as learn
from learner.run_folder import RunFolder
from policy.checkpoint import load_policy, policy_version, save_policy
from rewards.preference_registry import Registry, pin_checkpoint
from tests.evaluation.tiny_parts import PROMPTS, tiny_policy, write_parts
from tests.storage.s3_server import (
    Answer,
    Fault,
    Request,
    S3Server,
    bad_credentials,
    deny_writes,
    skewed_clock,
    wrong_region,
)
from tests.system.tiny_world import TinyWorld

URL = "s3://bucket/runs/one"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICRL_CACHE", str(tmp_path / "machine"))


def ignores_conditions(request: Request) -> Answer | None:
    return Answer(200, headers={"ETag": '"x"'}) if request.method == "PUT" else None


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (deny_writes, "bucket 'bucket' denies put_object (AccessDenied)"),
        (skewed_clock, "the clocks of this machine and of the server differ by 3600"),
        (wrong_region, "bucket 'bucket' is in eu-central-1, but AWS_REGION says "),
        (bad_credentials, "the credentials of the environment are refused (InvalidAccessKeyId)"),
        (ignores_conditions, "whose server ignores conditional writes (If-None-Match)"),
    ],
)
@pytest.mark.parametrize("key", ["run.dir", "run.resume"])
def test_a_store_that_cannot_be_used(
    world: TinyWorld, server: S3Server, capsys: pytest.CaptureFixture[str], key: str, fault: Fault, line: str
) -> None:
    put_run(world, server)
    words = world.arguments("s3://bucket/runs/new") if key == "run.dir" else [f"run.resume={URL}"]
    with server.faults(fault):
        assert learn(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: {key}: got 's3://bucket/runs/") and line in said[0]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("run.dir=s3://nobody/run", "run.dir: got 's3://nobody/run': bucket 'nobody' does not exist at http"),
        ("run.dir=s3://bucket", "run.dir: got 's3://bucket', allowed a local folder or s3://BUCKET/PREFIX"),
        ("run.dir=gs://bucket/run", "run.dir: got 'gs://bucket/run', allowed a local folder or s3://BUCKET/PREFIX"),
        (f"run.dir={URL}", "which is not empty; allowed a new or empty prefix (to go on with that run: run.resume="),
        ("run.resume=s3://bucket/nothing", "run.resume: got 's3://bucket/nothing', which has no config.yaml"),
        (f"run.resume={URL}", f"run.resume: got '{URL}' with no checkpoints, allowed a run with a complete one"),
        ("policy.checkpoint=s3://bucket/none", "policy.checkpoint: got 's3://bucket/none', which holds nothing"),
        ("policy.checkpoint=gs://bucket/none", "policy.checkpoint: got 'gs://bucket/none', allowed a local folder or"),
        ("storage.lease_s=1", "storage.lease_s: got '1', allowed a finite number, at least 3"),
        ("storage.endpoint=nonsense", "run.dir: got 's3://bucket/runs/new': nonsense cannot be reached"),
        ("storage.endpoint=http://127.0.0.1:1", "run.dir: got 's3://bucket/runs/new': http://127.0.0.1:1 cannot be"),
    ],
)
def test_a_place_that_cannot_be_used(
    world: TinyWorld, server: S3Server, capsys: pytest.CaptureFixture[str], word: str, line: str
) -> None:
    put_run(world, server)
    key = word.partition("=")[0]
    words = [] if key == "run.resume" else world.arguments("s3://bucket/runs/new")
    assert learn([*(each for each in words if not each.startswith(f"{key}=")), word]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and line in said[0]
    assert not server.objects("bucket", "runs/new")


@pytest.mark.parametrize("cache", ["machine", "other machine"])
def test_a_folder_that_another_run_writes_is_refused_in_one_line(
    world: TinyWorld, server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: str
) -> None:
    folder = RunFolder.create(load_config(world.arguments(URL)))
    try:
        asyncio.run(folder.flush())
        for key, words in (("run.dir", world.arguments(URL)), ("run.resume", [f"run.resume={URL}"])):
            assert learn([*words, f"storage.cache={tmp_path / cache}"]) == 2
            said = capsys.readouterr().err.strip().splitlines()
            assert len(said) == 1 and said[0].startswith(f"error: {key}: {URL} is in use by process {os.getpid()} on ")
    finally:
        folder.close()
    assert learn([f"run.resume={URL}"]) == 2  # free again: what is wrong now is something else
    assert "no checkpoints, allowed a run with a complete one" in capsys.readouterr().err


def test_every_changed_key_of_a_resume_is_named(
    world: TinyWorld, server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(world, server)
    assert learn([f"run.resume={URL}", "run.seed=9", "learner.alpha=0.5", "storage.deadline_s=60"]) == 2
    said = capsys.readouterr().err
    assert "run.seed: got 9 beside run.resume, allowed the run's own 0;" in said
    assert "learner.alpha: got 0.5 beside run.resume, allowed the run's own 0.05;" in said
    assert "storage.deadline_s: got" not in said and "free to change: " in said


def put_run(world: TinyWorld, server: S3Server) -> None:
    """A run that has just begun."""
    config = Config(
        policy=PolicyConfig(str(world.folder / "policy")),
        rewards={"low_tokens": RewardConfig(target="tests.system.simple_rewards:LowTokens")},
    )
    server.put("bucket", "runs/one/config.yaml", stored_yaml(config).encode())


def test_a_policy_a_codec_and_judges_on_object_storage(world: TinyWorld, server: S3Server) -> None:
    for path in (world.folder / "policy").iterdir():
        server.put("bucket", f"models/base/{path.name}", path.read_bytes())
    assert policy_version("s3://bucket/models/base") == policy_version(world.folder / "policy")
    loaded, own = load_policy("s3://bucket/models/base"), load_policy(world.folder / "policy")
    assert all((a == b).all() for a, b in zip(loaded.parameters(), own.parameters(), strict=True))


def test_an_evaluation_of_a_run_on_object_storage_goes_back_to_it(
    server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, codec = write_parts(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    config = Config(
        policy=PolicyConfig(str(policy), str(policy)),
        codec=CodecConfig(str(codec)),
        rewards={"level": RewardConfig(weight=1.0, target="tests.evaluation.tiny_parts:Level")},
        prompts=PromptsConfig(train=str(tmp_path / "prompts.txt"), eval=str(tmp_path / "prompts.txt")),
    )
    config.evaluation.judges = ""
    server.put("bucket", "runs/one/config.yaml", stored_yaml(config).encode())
    server.put("bucket", "runs/one/replay/segment_000000.arrows", b"not read")
    for step, seed in ((0, 0), (20, 3)):
        save_policy(tiny_policy(seed), tmp_path / f"{step}")
        for path in (tmp_path / f"{step}").iterdir():
            server.put("bucket", f"runs/one/checkpoints/step_{step}/policy/{path.name}", path.read_bytes())
        server.put("bucket", f"runs/one/checkpoints/step_{step}/manifest.json", b"{}")
    assert evaluate([f"{URL}/", "n=4", "seconds=0.4"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"report: {URL}/report.html")
    there = server.objects("bucket", "runs/one/")
    assert json.loads(there["runs/one/evaluation_summary.json"])["learner_step"] == 20
    assert b"<html" in there["runs/one/report.html"] and there["runs/one/evaluation_final.parquet"][:4] == b"PAR1"
    read = [request.path for request in server.requests if request.method == "GET"]
    assert not any("replay/" in path or "step_0/policy" in path for path in read)
    with server.faults(deny_writes):
        assert evaluate([URL, "n=4", "seconds=0.4"]) == 1
    assert "denies put_object (AccessDenied); the files are in " in capsys.readouterr().err


def test_the_registry_on_object_storage(server: S3Server, tmp_path: Path) -> None:
    training = {"version": "abc", "data": "d", "votes": 3, "settings": {}, "figures": {}}
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / "training.json").write_text(json.dumps(training))
    place = "s3://bucket/registry"
    registry = Registry(place)
    registry.add(tmp_path)
    registry.judge("abc", True, "good", {})
    assert pin_checkpoint(f"registry:{place}@current") == f"registry:{place}@abc"
    assert (Registry(place).directory("abc") / "model.safetensors").read_text() == "model.safetensors"
    assert [entry.version for entry in registry.entries()] == ["abc"]
    with (
        server.faults(bad_credentials),
        pytest.raises(UserError, match="registry: s3://bucket/registry: bucket 'bucket'"),
    ):
        registry.entry("abc")
