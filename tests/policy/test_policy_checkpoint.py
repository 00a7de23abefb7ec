"""Policies on disk: exact round trips, and one line for anything that is not a policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_parts import PROMPTS, random_codes, small_policy

from cluster.errors import UserError
from policy.checkpoint import CONFIG, VOCABULARY, WEIGHTS, load_policy, policy_version, save_policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(small_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def test_float32_keeps_every_bit(folder: Path) -> None:
    policy, loaded = small_policy(), load_policy(folder)
    assert loaded.config == policy.config
    assert loaded.tokenizer == policy.tokenizer
    assert not loaded.training
    codes, text = random_codes(policy, 4, 5), loaded.encode_text(PROMPTS)
    with torch.no_grad():
        assert torch.equal(policy(codes, policy.encode_text(PROMPTS)), loaded(codes, text))


def test_float16_is_half_the_size_and_loads_as_float32(folder: Path, tmp_path: Path) -> None:
    save_policy(small_policy(), tmp_path / "half", torch.float16)
    sizes = [(path / WEIGHTS).stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.65 * sizes[0]
    loaded = load_policy(tmp_path / "half")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    save_policy(loaded, tmp_path / "again", torch.float16)
    assert policy_version(tmp_path / "half") == policy_version(tmp_path / "again")


def test_versions_are_of_the_content(folder: Path, tmp_path: Path) -> None:
    save_policy(small_policy(), tmp_path / "same")
    save_policy(small_policy(seed=1), tmp_path / "other")
    versions = [policy_version(path) for path in (folder, tmp_path / "same", tmp_path / "other")]
    assert len(versions[0]) == 12
    assert versions[0] == versions[1] != versions[2]


def _truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "folder": (shutil.rmtree, "no such folder"),
    "weights": (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
    "vocabulary": (lambda folder: (folder / VOCABULARY).unlink(), VOCABULARY),
    "truncated weights": (_truncate, "whole safetensors"),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "whole safetensors"),
    "no JSON": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\x00{"), "allowed JSON"),
    "no object": (lambda folder: (folder / CONFIG).write_text("[1]"), "JSON object"),
    "other kind": (_edit(CONFIG, lambda c: c.update(kind="musicgen")), "allowed tiny_musiclm"),
    "no kind": (_edit(CONFIG, lambda c: c.pop("kind")), "allowed tiny_musiclm"),
    "unknown shape": (_edit(CONFIG, lambda c: c.update(colour=1)), "describes no tiny_musiclm"),
    "other width": (_edit(CONFIG, lambda c: c.update(temporal_width=64)), "of shape"),
    "more layers": (_edit(CONFIG, lambda c: c.update(temporal_layers=3)), "without tensor"),
    "fewer layers": (_edit(CONFIG, lambda c: c.update(depth_layers=1)), "unknown tensor"),
    "another vocabulary": (_edit(VOCABULARY, lambda c: c["words"].pop()), "by the words of vocabulary.json"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_policy_is_told_in_one_line(name: str, folder: Path) -> None:
    spoil, told = SPOILT[name]
    spoil(folder)
    with pytest.raises(UserError, match=told) as error:
        load_policy(folder)
    assert "\n" not in str(error.value)
    assert "policy.checkpoint" in str(error.value)


def test_non_finite_weights_are_refused(tmp_path: Path) -> None:
    policy = small_policy()
    policy.depth.heads.data[0, 0, 0] = torch.nan
    save_policy(policy, tmp_path)
    with pytest.raises(UserError, match="non-finite"):
        load_policy(tmp_path)
