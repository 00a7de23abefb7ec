"""`python -m learner.pretrain`: bad input in one line, stages in order, skipped when finished."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from configs.command_line import parse_settings
from learner import pretrain
from learner.pretrain import main
from learner.world_stages import NEEDS, WorldBuilder, WorldSettings, copy_model, write_prompt_lists
from policy.checkpoint import load_policy
from world.tokens import _save


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "allowed world, policy"),
        (["wold"], "did you mean world?"),
        (["world", "stge=codec"], "did you mean stage?"),
        (["world", "stage=codecs"], "did you mean codec?"),
        (["world", "scale=0"], "scale: got 0, allowed a finite number above 0"),
        (["world", "scale=nan"], "scale: got nan"),
        (["world", "seed=-1"], "at least 0"),
        (["world", "threads=two"], "allowed a whole number"),
        (["world", "threads=1", "threads=2"], "given twice"),
        (["world", "--threads"], "write key=value"),
        (["policy"], "data: got nothing"),
        (["policy", "data=/nowhere.npz"], "/nowhere.npz"),
        (["policy", "caption_dropout=1"], "below 1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_settings_keep_their_types() -> None:
    settings = parse_settings(["world=w", "scale=0.5", "threads=1"], WorldSettings())
    assert (settings.world, settings.scale, settings.threads, settings.seed) == ("w", 0.5, 1, 0)


def test_every_need_of_a_stage_comes_before_it() -> None:
    order = list(NEEDS)
    assert all(order.index(need) < order.index(stage) for stage, needs in NEEDS.items() for need in needs)


def _builder(folder: Path) -> WorldBuilder:
    settings = WorldSettings(world=str(folder / "world"), models=str(folder / "tiny"), assets=str(folder / "assets"))
    return WorldBuilder(settings, lambda _: None)


def _touch(builder: WorldBuilder, stage: str, at: float) -> None:
    for path in builder.outputs(stage):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (at, at))


def test_a_stage_is_finished_until_something_below_it_is_newer(tmp_path: Path) -> None:
    builder = _builder(tmp_path)
    assert not any(builder.finished(stage) for stage in NEEDS)
    for at, stage in enumerate(NEEDS, start=1000):
        _touch(builder, stage, at)
    unfinished = [stage for stage in NEEDS if not builder.finished(stage)]
    assert unfinished == []
    _touch(builder, "policy", 5000)
    assert [stage for stage in NEEDS if not builder.finished(stage)] == ["ngram", "normalisation"]


def test_only_what_is_unfinished_is_made_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, made = _builder(tmp_path), []
    for at, stage in enumerate(NEEDS, start=1000):
        if stage not in ("quality", "policy", "card"):
            _touch(builder, stage, at)

    def make(self: WorldBuilder, stage: str) -> None:
        made.append(stage)
        _touch(self, stage, 2000 + len(made))

    monkeypatch.setattr(WorldBuilder, "make", make)
    words = [f"{name}={tmp_path / folder}" for name, folder in (("world", "world"), ("models", "tiny"))]
    pretrain.build_world([*words, f"assets={tmp_path / 'assets'}"])
    assert made == ["quality", "policy", "ngram", "normalisation", "export", "card"]


def test_a_named_stage_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(WorldBuilder, "make", lambda self, stage: made.append(stage))
    assert main(["world", "stage=semantic", f"models={tmp_path}"]) == 0
    assert made == ["semantic"]


def test_what_is_shipped_leaves_the_training_state_behind(tmp_path: Path) -> None:
    source = tmp_path / "judges"
    (source / "tempo").mkdir(parents=True)
    for name in ("config.json", "tempo/config.json", "tempo/model.safetensors", "training.pt"):
        (source / name).write_text(name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.json").touch()
    copy_model(source, tmp_path / "out")
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["config.json", "tempo/config.json", "tempo/model.safetensors"]


def test_prompt_lists_have_no_line_in_common(tmp_path: Path) -> None:
    write_prompt_lists(tmp_path)
    lists = [(tmp_path / name).read_text().splitlines() for name in ("train.txt", "eval.txt")]
    assert len(lists[0]) > 2000
    assert len(lists[1]) >= 256
    assert not set(lists[0]) & set(lists[1])


def test_a_policy_from_tokens_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [
        {
            "codes": [rng.integers(256, size=(rows, 5, 12)).astype(np.uint8)],
            "clip_ids": [f"{split}{row}" for row in range(rows)],
            "splits": [split] * rows,
            "captions": ["slow piano"] * rows,
            "damage": ["noise"] * (rows // 2) + ["clean"] * (rows - rows // 2),
            "severity": [0.5] * rows,
            "swapped": [""] * rows,
            "variant": [0] * rows,
        }
        for split, rows in (("train", 8), ("valid", 2))
    ]
    _save(tmp_path / "tokens_mixed.npz", parts, "codec1", "semantic1")
    words = ["steps=2", "batch_size=2", "crop_least=4", "threads=1", f"out={tmp_path / 'policy'}"]
    assert main(["policy", f"data={tmp_path / 'tokens_mixed.npz'}", *words]) == 0
    assert [stream.size for stream in load_policy(tmp_path / "policy").streams] == [256] * 5
    facts = json.loads((tmp_path / "policy" / "training.json").read_text())
    assert facts["degraded_share_drawn"] == 0.5
    assert facts["wrong_caption_share"] == 0.35
