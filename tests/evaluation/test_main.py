"""The command: a whole evaluation of a small run folder, and what it says to wrong input."""

import json
from pathlib import Path

import pytest

from configs.load import stored_yaml
from configs.schema import CodecConfig, Config, PolicyConfig, PromptsConfig, RewardConfig
from evaluation.main import main
from evaluation.score_rows import SCHEMA
from policy.checkpoint import save_policy
from tests.evaluation.tiny_parts import PROMPTS, tiny_policy, write_parts


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A finished run whose last checkpoint differs from its base."""
    directory = tmp_path_factory.mktemp("small_run")
    policy, codec = write_parts(directory)
    (directory / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    config = Config(
        policy=PolicyConfig(str(policy), str(policy)),
        codec=CodecConfig(str(codec)),
        rewards={"level": RewardConfig(weight=1.0, target="tests.evaluation.tiny_parts:Level")},
        prompts=PromptsConfig(train=str(directory / "prompts.txt"), eval=str(directory / "prompts.txt")),
    )
    config.evaluation.judges = ""
    (directory / "config.yaml").write_text(stored_yaml(config))
    for step, seed in ((0, 0), (20, 3)):
        save_policy(tiny_policy(seed), directory / "checkpoints" / f"step_{step}" / "policy")
        (directory / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    (directory / "checkpoints" / "step_40").mkdir()  # a save that never got its manifest
    return directory


def test_a_whole_evaluation(run_dir, capsys):
    import pyarrow.parquet as pq

    assert main([str(run_dir), "n=8", "seeds=2", "seconds=0.4", "batch_size=5"]) == 0
    rows = pq.read_table(run_dir / "evaluation_final.parquet")
    assert rows.schema.equals(SCHEMA) and len(rows) == 2 * 8 * 2 * 2
    summary = json.loads((run_dir / "evaluation_summary.json").read_text())
    assert summary["learner_step"] == 20 and summary["plan"]["prompts"] == 8
    assert set(summary["scores"]) == {"reward", "level"} and summary["scores"]["level"]["n"] == 8
    assert summary["kl"]["clip"]["value"] > 0
    assert summary["diversity"] == {} and summary["frechet"] == {}  # no judge with a space of its own
    assert (run_dir / "report.html").exists()
    printed = capsys.readouterr().out
    assert "Level" in printed and printed.strip().endswith("report.html")


def test_the_base_against_itself_has_no_gain_and_no_kl(run_dir):
    assert main([str(run_dir), "n=8", "seconds=0.4", f"policy={run_dir / 'policy'}"]) == 0
    summary = json.loads((run_dir / "evaluation_summary.json").read_text())
    assert summary["scores"]["level"]["gain"]["value"] == 0 and summary["scores"]["level"]["verdict"] == "unchanged"
    assert summary["kl"]["clip"]["value"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "RUN_DIR: got 'nowhere'"),
        (["n=3"], "RUN_DIR: got 'n=3' as the first word"),
        (["{run}", "m=3"], "m=3: not understood"),
        (["{run}", "n"], "n: not understood"),
        (["{run}", "n=0"], "n: got '0', allowed a whole number from 1"),
        (["{run}", "n=2.5"], "n: got '2.5'"),
        (["{run}", "seconds=nan"], "seconds: got 'nan'"),
        (["{run}", "n=3", "n=4"], "n: given twice"),
        (["{run}", "prompts=missing.txt"], "prompts: "),
        (["{run}", "base=missing"], "missing"),
        (["{run}", "real=missing", "n=2"], "test clips: got missing"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run_dir, capsys, words, said):
    assert main([word.replace("{run}", str(run_dir)) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_run_without_a_checkpoint_is_refused(run_dir, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    assert main([str(tmp_path)]) == 2
    assert "without a complete checkpoint" in capsys.readouterr().err
