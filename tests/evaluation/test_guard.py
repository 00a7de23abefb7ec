"""What a run folder says of over-optimisation: alarms.json, the checkpoints that must stay, diversity, the panel."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import UserError
from configs.schema import AlarmRules, GuardConfig, RewardConfig
from evaluation.evaluate import Panel, evaluate_policy
from evaluation.guard import Watch, kept_checkpoints, unweighted_rewards, watch, write_alarms
from evaluation.panel import load_panel
from evaluation.prompt_diversity import diversity_rows
from evaluation.score_rows import DIVERSITY, SECOND_PREFERENCE, judges_of, rows_table, score_matrix
from policy.port import SamplingSettings
from tests.evaluation.tiny_parts import PROMPTS, Level, LowTokens, tiny_codec, tiny_policy

STEPS = np.arange(9) * 10
REWARD = 0.3 * np.arange(9.0)
TURNS = np.array([0.0, 0.4, 0.8, 1.0, 0.7, 0.3, 0.0, -0.4, -0.8])


def rows_of(second: np.ndarray, evaluations: int = 9, prompts: int = 64) -> pa.Table:
    rng = np.random.default_rng(0)
    tables = []
    for step, reward, guard in zip(STEPS[:evaluations], REWARD, second, strict=False):
        noise = np.random.default_rng(1).standard_normal(prompts) + 0.3 * rng.standard_normal(prompts)
        scores = {"reward": reward + noise, "quality": reward + noise, SECOND_PREFERENCE: guard + noise}
        seeds, texts = range(100, 100 + prompts), [f"prompt {i}" for i in range(prompts)]
        tables.append(rows_table(int(step), range(prompts), texts, seeds, scores, ["reward", "quality"]))
    return pa.concat_tables(tables)


def watched(second: np.ndarray, evaluations: int = 9, kept: range | list[int] = range(0, 90, 10)) -> Watch:
    found = watch(rows_of(second, evaluations), STEPS, STEPS / 10.0, AlarmRules(), ["quality"], list(kept))
    assert found is not None
    return found


def test_the_alarm_and_the_proposal_are_in_the_file(tmp_path):
    found = watched(TURNS)
    write_alarms(tmp_path, found, GuardConfig())
    content = json.loads((tmp_path / "alarms.json").read_text())
    assert content["ringing"] and content["learner_step"] == 80
    first = content["alarms"][0]
    assert first["rule"] in ("falls", "parts") and first["guard"] == "second preference model"
    assert first["learner_step"] in (40, 50)
    assert content["proposal"]["policy"] == f"checkpoints/step_{content['proposal']['learner_step']}/policy"
    assert content["proposal"]["learner_step"] in (20, 30, 40)
    assert content["rules"]["consecutive"] == AlarmRules().consecutive


def test_begun_names_each_rule_once_until_it_has_stopped():
    found = watched(TURNS)
    assert len(found.alarms) > len(found.begun) >= 1
    keys = [(alarm.rule, alarm.guard) for alarm in found.begun]
    assert len(keys) == len(set(keys))
    assert found.begun[0] == found.alarms[0]


def test_what_an_alarm_falls_back_on_was_needed_before_it_rang():
    """As a run keeps checkpoints: the newest two, step 0 and those needed; what is proposed at the end is as good."""
    kept: list[int] = []
    for evaluations in range(1, 10):
        step = int(STEPS[evaluations - 1])
        found = watched(TURNS, evaluations, [*kept, step])
        kept = [s for s in (*kept, step) if s == 0 or s in found.needed or s > step - 20]
    proposal = found.proposal
    assert proposal is not None and proposal.alarms
    assert proposal.learner_step in (20, 30) and proposal.learner_step in kept
    assert len(kept) <= 6


def test_nothing_to_say_before_the_first_evaluation():
    assert watch(rows_of(TURNS).slice(0, 0), STEPS, STEPS / 10.0, AlarmRules(), [], [0]) is None


def test_checkpoints_without_a_manifest_are_not_kept(tmp_path):
    for step, whole in ((0, True), (10, False), (20, True)):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
        if whole:
            (tmp_path / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    assert kept_checkpoints(tmp_path) == [0, 20]


def test_rewards_of_weight_0_guard():
    assert unweighted_rewards({"a": RewardConfig(weight=0.0), "b": RewardConfig(weight=0.5)}) == ["a"]


def test_diversity_is_the_distance_between_clips_of_the_first_prompts():
    policy, codec, panel = tiny_policy(), tiny_codec(), Panel((Level(),), (), None, LowTokens())
    how = {"seconds": 0.4, "sampling": SamplingSettings(), "batch_size": 4}
    whole = evaluate_policy(policy, codec, panel, PROMPTS, seeds=[7], **how)
    rows = diversity_rows(policy, codec, panel.embedder, PROMPTS[:3], whole, seeds=range(7, 10), learner_step=20, **how)
    assert score_matrix(rows, 20, DIVERSITY).shape == (3, 1)
    assert not any(rows["in_reward"].to_pylist())
    one = evaluate_policy(policy, codec, panel, PROMPTS[:3], seeds=[7, 8, 9], **how)  # the long way
    clips = one.embeddings.reshape(3, 3, -1)[:, 1].astype(np.float64)  # of the second prompt
    clips /= np.linalg.norm(clips, axis=1, keepdims=True)
    expected = 1 - np.mean([clips[0] @ clips[1], clips[0] @ clips[2], clips[1] @ clips[2]])
    assert score_matrix(rows, 20, DIVERSITY)[1, 0] == pytest.approx(expected, abs=1e-5)
    assert DIVERSITY not in judges_of(pa.concat_tables([whole.rows, rows]))


def test_no_diversity_without_a_space_or_prompts():
    policy, codec = tiny_policy(), tiny_codec()
    how = {"seconds": 0.4, "sampling": SamplingSettings(), "batch_size": 4}
    whole = evaluate_policy(policy, codec, Panel((Level(),)), PROMPTS[:2], seeds=[7], **how)
    more = {"seeds": range(2), "learner_step": 0, **how}
    assert len(diversity_rows(policy, codec, None, PROMPTS[:2], whole, **more)) == 0
    assert len(diversity_rows(policy, codec, LowTokens(), (), whole, **more)) == 0


@pytest.mark.parametrize("name", ["second_preference", "diversity", "reward"])
def test_names_of_the_guards_are_taken(name):
    with pytest.raises(UserError, match=f"rewards.{name}: this name is taken"):
        load_panel({name: RewardConfig(target="tests.evaluation.tiny_parts:Level")}, "")


def test_a_second_preference_that_is_not_there_is_told(tmp_path):
    rewards = {"level": RewardConfig(target="tests.evaluation.tiny_parts:Level")}
    with pytest.raises(UserError, match=r"guard\.second_preference: preference checkpoint: got"):
        load_panel(rewards, "", str(tmp_path / "nowhere"))
