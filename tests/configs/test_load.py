"""Command line + preset + defaults -> Config, and one clear line for whatever is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.keys import all_keys
from configs.load import load_config, load_stored, stored_yaml
from configs.paths import PRESETS, PROJECT_ROOT
from configs.schema import Config


def refused(*argv: str) -> str:
    """The one line that `argv` is answered with."""
    with pytest.raises(UserError) as error:
        load_config(argv)
    text = str(error.value)
    assert "\n" not in text and text
    return text


def test_no_argument_is_the_embedded_default():
    config = load_config([])
    assert config.preset == "tiny_r"
    assert set(config.rewards) == {"text_adherence", "quality"}
    assert config == load_config(["preset=tiny_r"])
    assert config.pipeline == Config().pipeline and config.sampling == Config().sampling


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_loads(preset: str):
    assert load_config([f"preset={preset}"]).preset == preset


def test_later_layers_win_over_earlier_ones():
    preset = load_config(["preset=smoke"])
    assert preset.learner.steps == 8 and preset.learner.alpha == Config().learner.alpha
    assert load_config(["preset=smoke", "learner.steps=3"]).learner.steps == 3


def test_values_get_their_types():
    config = load_config(
        [
            "learner.learning_rate=1e-4",
            "learner.steps=0012",
            "run.dir=2024",
            "learner.freeze=[*embed*, 'head.*']",
            "rewards.quality.shift=-1",
            "rewards.quality.scale=null",
            "rewards.own.target=my.rewards:Bright",
            "rewards.own.options.bars=4",
            "rewards.own.options.rate=6e-5",
        ]
    )
    assert config.learner.learning_rate == 1e-4 and config.learner.steps == 12
    assert config.run.dir == "2024"
    assert config.learner.freeze == ["*embed*", "head.*"]
    assert config.rewards["quality"].shift == -1.0 and config.rewards["quality"].scale is None
    assert config.rewards["own"].options == {"bars": 4, "rate": 6e-5}


def test_a_section_can_be_given_at_once():
    config = load_config(["learner={steps: 4, alpha: 0.1}", "rewards.own={target: 'a:B'}"])
    assert (config.learner.steps, config.learner.alpha, config.rewards["own"].target) == (4, 0.1, "a:B")


def test_values_may_refer_to_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLIPS", "16")
    config = load_config(["learner.batch_size=${oc.env:CLIPS}", "evaluation.prompts=${learner.batch_size}"])
    assert (config.learner.batch_size, config.evaluation.prompts) == (16, 16)
    assert "NOT_THERE" in refused("learner.steps=${oc.env:NOT_THERE}")


WRONG = {
    "learner.step=3": "learner.step: unknown key, did you mean learner.steps?",
    "steps=3": "steps: unknown key, did you mean learner.steps?",
    "rewards.quality.wieght=1": "did you mean rewards.quality.weight?",
    "learner.lr=3": "learner.lr: unknown key; learner has steps, batch_size",
    "xyzzy=1": "xyzzy: unknown key",
    "rewards.Bad-Name.weight=1": "the reward name 'Bad-Name'",
    "learner=3": "learner: got 3, allowed a section",
    "learner.steps=abc": "learner.steps: got 'abc', allowed a whole number, at least 1",
    "learner.steps=1.5": "learner.steps: got '1.5'",
    "learner.steps=": "learner.steps: got ''",
    "learner.steps=99999999999999999999": "allowed a whole number",
    "learner.batch_size=0": "learner.batch_size: got '0', allowed a whole number, at least 1",
    "learner.batch_size=-4": "at least 1",
    "learner.alpha=1.01": "learner.alpha: got '1.01', allowed a finite number, at least 0 and at most 1",
    "sampling.temperature=nan": "sampling.temperature: got 'nan', allowed a finite number, above 0",
    "sampling.temperature=0": "sampling.temperature: got '0', allowed a finite number, above 0",
    "rewards.quality.weight=nan": "rewards.quality.weight: got 'nan', allowed a finite number",
    "rewards.quality.weight=-inf": "rewards.quality.weight: got '-inf', allowed a finite number",
    "rewards.quality.scale=0": "rewards.quality.scale: got '0'",
    "pipeline.mode=asink": "pipeline.mode: got 'asink', allowed one of sync, async",
    "learner.baseline=none": "one of value, leave_one_out, batch_mean",
    "learner.value_trunk=shared": "one of own, policy",
    "learner.value_gradient=-1": "learner.value_gradient: got '-1', allowed a finite number, at least 0",
    "metrics.port=70000": "at most 65535",
    "sampling.top_k=250": "sampling.top_k: got 250, allowed 0: training needs the log-probability",
    "learner.freeze.a=3": "learner.freeze.a: unknown key",
    "run.dir=gs://bucket/run": "run.dir: got 'gs://bucket/run', allowed a local folder or s3://BUCKET/PREFIX",
    "learner.steps": "'learner.steps': not understood, write key=value",
    "=3": "not understood, write key=value",
    "--learner.steps=3": "write learner.steps=3",
    "preset=tiny_x": "preset: got 'tiny_x', allowed",
    "preset=": "preset: got ''",
    "preset=/nowhere/x.yaml": "preset: got '/nowhere/x.yaml', which cannot be read",
    "preset=/": "preset: got '/', which cannot be read",
    "rewards.qualty.weight=1": "rewards.qualty: no built-in reward of that name, did you mean rewards.quality?",
    "rewards.own.target=module.Class": "rewards.own.target: got 'module.Class', allowed module:Class",
    "rewards.preference.weight=1": "rewards.preference.checkpoint: got '', allowed a directory",
    "run.resume=/nowhere": "run.resume: got '/nowhere', allowed the folder of an earlier run",
}


@pytest.mark.parametrize(("word", "expected"), WRONG.items())
def test_a_wrong_word_is_answered_with_one_line(word: str, expected: str):
    assert expected in refused(word)


COMBINATIONS = [
    (["actors.rollout_size=10"], "actors.rollout_size: got 10, allowed a divisor of learner.batch_size (64)"),
    (["sampling.group_size=5"], "sampling.group_size: got 5, allowed a divisor of learner.batch_size (64)"),
    (["sampling.group_size=8", "actors.rollout_size=4"], "allowed a divisor of actors.rollout_size (4)"),
    (["learner.baseline=leave_one_out"], "sampling.group_size: got 1, allowed at least 2"),
    (["learner.baseline=batch_mean", "learner.batch_size=1"], "learner.batch_size: got 1, allowed at least 2"),
    (
        ["learner.baseline=batch_mean", "learner.value_trunk=policy"],
        "value_trunk: got policy, allowed own with",
    ),
    (["learner.value_gradient=0.1"], "learner.value_gradient: got 0.1, allowed 0 with learner.value_trunk=own"),
    (["learner.workers=3"], "learner.workers: got 3, allowed a divisor of learner.batch_size (64)"),
    (["learner.workers=2", "pipeline.stall_s=30"], "learner.collective_timeout_s: got 60, allowed less than pipeline"),
    (["learner.value_warmup_steps=300"], "allowed less than learner.steps (300)"),
    (["pipeline.mode=async", "pipeline.max_staleness=0"], "pipeline.max_staleness: got 0, allowed at least 1"),
    (["learner.steps=3", "learner.steps=4"], "learner.steps: given twice, '3' and '4'"),
    (["learner={steps: 3}", "learner.steps=4"], "learner.steps: given twice"),
]


@pytest.mark.parametrize(("argv", "expected"), COMBINATIONS)
def test_an_impossible_combination_is_refused(argv: list[str], expected: str):
    assert expected in refused(*argv)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"learner: {step: 3}", "own.yaml: learner.step: unknown key, did you mean learner.steps?"),
        (b"learner: {steps: [1}", "no valid YAML, line 1"),
        (b"learner: {steps: 1}\nlearner: {steps: 2}", "no valid YAML, line 2"),
        (b"- a\n- b", "allowed a YAML file of key: value lines"),
        (b"just words", "allowed a YAML file of key: value lines"),
        (b"\xff\xfe\x00", "allowed a YAML file in UTF-8"),
        (b"learner: {alpha: .nan}", "learner.alpha: got nan"),
        (b"learner: {steps: true}", "learner.steps: got True"),
        (b"learner: {steps: 1.5}", "learner.steps: got 1.5"),
        (b"run: {dir: null}", "run.dir: got None, allowed text"),
        (b"learner: {freeze: {a: 1}}", "learner.freeze: got {'a': 1}, allowed a list"),
    ],
)
def test_a_wrong_preset_file_is_answered_with_one_line(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "own.yaml"
    file.write_bytes(content)
    assert expected in refused(f"preset={file}")


def test_a_preset_can_be_any_file(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("learner: {steps: 7}\nrewards: {own: {target: 'a:B'}}")
    config = load_config([f"preset={file}"])
    assert (config.preset, config.learner.steps, set(config.rewards)) == (str(file), 7, {"own"})


@settings(deadline=None, max_examples=50)
@given(batch=st.integers(1, 200), group=st.integers(1, 40))
def test_without_a_rollout_size_one_is_found_whenever_there_is_one(batch: int, group: int):
    argv = [f"learner.batch_size={batch}", f"sampling.group_size={group}"]
    if batch % group:
        assert "sampling.group_size" in refused(*argv)
        return
    rollout = load_config(argv).actors.rollout_size
    assert batch % rollout == 0 and rollout % group == 0 and rollout <= max(32, group)


def test_assets_are_found_here_first_then_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    argv = ["policy.checkpoint=mine", "codec.checkpoint=configs", "prompts.train=nowhere.txt"]
    config = load_config(argv)
    assert config.policy.checkpoint == config.policy.reference == str(tmp_path / "mine")
    assert config.codec.checkpoint == str(PROJECT_ROOT / "configs")
    assert config.prompts.train == "nowhere.txt"
    (tmp_path / "configs").mkdir()
    assert load_config(argv).codec.checkpoint == str(tmp_path / "configs")


def test_stored_yaml_reads_back_to_the_same_config(tmp_path: Path):
    argv = ["learner.learning_rate=3.3333333333333333e-05", "rewards.own.target=a:B", "rewards.own.options.bars=4"]
    config = load_config([*argv, f"run.dir={tmp_path}", "codec.checkpoint=configs"])
    text = stored_yaml(config)
    assert "checkpoint: configs\n" in text  # relative to the project, so that the folder can move
    (tmp_path / "config.yaml").write_text(text)
    assert load_stored(tmp_path) == config
    again = load_config([f"preset={tmp_path}/config.yaml"])
    assert dataclasses.replace(again, preset="tiny_r") == config


@pytest.fixture
def earlier_run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(stored_yaml(load_config(["rewards.own.target=a:B", "run.seed=7"])))
    return tmp_path


def test_resume_takes_the_config_of_the_folder(earlier_run: Path):
    changed = ["learner.steps=400", "metrics.progress=lines", "run.seed=7", "learner.workers=2"]
    config = load_config([f"run.resume={earlier_run}", *changed])
    assert config.run.resume == config.run.dir == str(earlier_run) and config.learner.workers == 2
    assert (config.run.seed, config.learner.steps, config.metrics.progress) == (7, 400, "lines")
    assert config.rewards["own"].target == "a:B"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run.seed=8", "run.seed: got 8 beside run.resume, allowed the run's own 7"),
        ("learner.steps=299", "learner.steps: got 299 beside run.resume, allowed at least 300"),
        ("preset=smoke", "preset: got 'smoke' beside run.resume, allowed the run's own 'tiny_r'"),
        ("rewards.other.target=a:B", "rewards.other.weight: got 1.0 beside run.resume, allowed only the run's own"),
        ("rewards.own.options.bars=4", "rewards.own.options: got {'bars': 4} beside run.resume"),
        ("learner.precision=bfloat16", "learner.precision: got 'bfloat16' beside run.resume, allowed the run's own"),
        ("learner.steps=x", "learner.steps: got 'x'"),
    ],
)
def test_resume_refuses_what_would_change_the_run(earlier_run: Path, word: str, expected: str):
    assert expected in refused(f"run.resume={earlier_run}", word)


def test_resume_names_a_folder_without_config(tmp_path: Path):
    assert "which has no config.yaml" in refused(f"run.resume={tmp_path}")


def test_every_key_can_be_given_its_own_default():
    for key in all_keys().values():
        if "NAME" in key.path or key.path in ("preset", "run.resume") or isinstance(key.default, list):
            continue
        load_config([f"{key.path}={key.default}"])
