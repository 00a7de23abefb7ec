"""The registry of published policies: whole or not there, in order, and readable while it changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import UserError
from feedback.published import PublishedPolicies
from policy.checkpoint import FILES, load_policy, policy_version, save_policy
from tests.evaluation.tiny_parts import tiny_policy
from tests.system.tiny_world import ROOT


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three different policies."""
    for seed in range(3):
        save_policy(tiny_policy(seed), tmp_path / f"policy_{seed}")
    return [tmp_path / f"policy_{seed}" for seed in range(3)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "published"


def test_versions_pointer_and_facts(folders: list[Path], place: Path) -> None:
    registry = PublishedPolicies(place)
    assert registry.current() == "" and registry.previous() == "" and registry.entries() == []
    first = registry.publish(folders[0])
    assert registry.current() == registry.previous() == first.version == policy_version(folders[0])
    second = registry.publish(folders[1], first.version, facts={"round": 1, "data": "abc"})
    again = PublishedPolicies(place)
    assert (again.current(), again.previous()) == (second.version, first.version)
    assert again.entry(second.version) == second and second.facts == {"round": 1, "data": "abc"}
    assert [entry.version for entry in again.entries()] == [first.version, second.version]
    folder = again.directory(second.version)
    assert all((folder / name).read_bytes() == (folders[1] / name).read_bytes() for name in FILES)
    load_policy(folder)


def test_a_group_has_its_own_or_everybodys(folders: list[Path], place: Path) -> None:
    registry = PublishedPolicies(place)
    shared = registry.publish(folders[0])
    assert registry.current("mellow") == shared.version and registry.groups() == []
    own = registry.publish(folders[1], shared.version, group="mellow")
    newer = registry.publish(folders[2], shared.version)
    assert registry.groups() == ["mellow"] and registry.current("mellow") == own.version
    assert registry.current() == registry.current("lively") == newer.version


def test_going_back_moves_the_pointer_only(folders: list[Path], place: Path) -> None:
    registry = PublishedPolicies(place)
    first = registry.publish(folders[0])
    second = registry.publish(folders[1], first.version, facts={"round": 1})
    registry.serve(first.version)
    assert registry.current() == first.version and len(registry.entries()) == 2
    repeated = registry.publish(folders[1], "another", facts={"round": 9})
    assert repeated == second, "a version that is there stays as it was entered"
    assert registry.current() == second.version


def test_what_is_wrong_changes_nothing(folders: list[Path], place: Path) -> None:
    registry = PublishedPolicies(place)
    first = registry.publish(folders[0])
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        registry.publish(folders[1])
    with pytest.raises(UserError, match="published: got version 'nothing', allowed one of"):
        registry.serve("nothing")
    assert registry.current() == first.version and len(registry.entries()) == 1
    (place / "current.json").write_text("[1]")
    with pytest.raises(UserError, match="cannot be read"):
        registry.current()


def test_left_overs_of_a_killed_publisher_are_no_version(folders: list[Path], place: Path) -> None:
    half = place / "versions" / ".publishing-1" / "policy"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    registry = PublishedPolicies(place)
    assert registry.entries() == []
    registry.publish(folders[0])
    assert not half.exists() and len(registry.entries()) == 1


PUBLISHES = """
import sys
from feedback.published import PublishedPolicies
registry = PublishedPolicies(sys.argv[1])
print("ready", flush=True)
while True:
    for folder in sys.argv[2:]:
        registry.publish(folder)
"""


@pytest.mark.timeout(240)
def test_a_reader_finds_a_whole_policy_whenever_the_publisher_is_killed(folders: list[Path], place: Path) -> None:
    """kill -9 at several moments: what is current can always be loaded, and is one of those that were published."""
    known = {policy_version(folder) for folder in folders}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for pause_s in (0.0, 0.03, 0.11):
        line = [sys.executable, "-c", PUBLISHES, str(place), *map(str, folders)]
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as publisher:
            assert publisher.stdout is not None and publisher.stdout.readline() == "ready\n"
            time.sleep(pause_s)
            publisher.send_signal(signal.SIGKILL)
        registry = PublishedPolicies(place)
        if version := registry.current():
            assert version in known
            load_policy(registry.directory(version))
        assert all(json.loads((place / "versions" / e.version / "entry.json").read_text()) for e in registry.entries())
