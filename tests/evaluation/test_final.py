"""Base against result beside real clips, with a small policy, codec and a panel whose judge reads the caption."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from evaluation.evaluate import Panel
from evaluation.final import Plan, evaluate_final
from evaluation.real_clips import fitting_clips, score_real_clips
from evaluation.test_set import TestSet
from policy.port import SamplingSettings
from tests.evaluation.tiny_parts import Level, LowTokens, tiny_codec, tiny_policy

LEADS = ("piano", "violin", "flute", "trumpet")
FACTS = {"tempo": "slow", "drums": "none", "chords": "none", "register": "low", "articulation": "legato"}
PROMPTS = tuple(f"a slow {lead} tune, legato, without drums, take {take}" for take in range(5) for lead in LEADS)


class Caption(LowTokens):
    """A judge of the pairing: the codes of a clip of lead i start with i."""

    name = "caption"

    def score(self, clips):
        wanted = np.array([next(i for i, lead in enumerate(LEADS) if lead in prompt) for prompt in clips.prompts])
        return (clips.codes[:, 0, 0] == wanted).astype(np.float32)


PANEL = Panel((Level(),), (Caption(), LowTokens()), lambda scores: scores["level"] + 5.0, LowTokens())
PLAN = Plan(PROMPTS, (1,), 0.4, SamplingSettings(1.0, 1.0), batch_size=8, diversity_samples=3, learner_step=30)


def real_clips(count: int = 24) -> TestSet:
    codes = np.random.default_rng(0).integers(0, 8, (count, 3, 12))
    codes[:, 0, 0] = np.arange(count) % 4
    attributes = tuple({"lead": LEADS[i % 4], **FACTS} for i in range(count))
    captions = tuple(f"slow {a['lead']} number {i}" for i, a in enumerate(attributes))
    return TestSet(captions, attributes, torch.from_numpy(codes), torch.zeros(0, 100))


@pytest.fixture(scope="module")
def moved():
    return evaluate_final(tiny_policy(0), tiny_policy(5), tiny_policy(0), tiny_codec(), PANEL, PLAN, real_clips(), {})


def test_real_clips_are_scored_under_their_own_captions_and_under_others():
    scored = score_real_clips(real_clips(), tiny_codec(), PANEL, 0.4, batch_size=7)
    assert scored.own["caption"] == pytest.approx(np.ones(24))
    assert scored.shuffled["caption"].mean() < 0.5
    assert scored.shuffled["level"] == pytest.approx(scored.own["level"])
    assert scored.embeddings.shape == (24, 6)


def test_only_judges_that_read_the_caption_have_a_position(moved):
    places = moved.summary["positions"]
    assert set(places) == {"reward", "level", "caption", "low_tokens"}
    assert [name for name, place in places.items() if "base" in place] == ["caption"]
    rows = moved.rows.to_pandas()
    base = rows[(rows.judge == "caption") & (rows.learner_step == 0)].score.mean()
    shuffled = places["caption"]["shuffled"]
    assert places["caption"]["base"]["value"] == pytest.approx((base - shuffled) / (1 - shuffled))


def test_diversity_is_measured_over_the_prompts_that_real_clips_fit(moved):
    diversity = moved.summary["diversity"]
    assert diversity["prompts"] == len(PROMPTS) and diversity["samples"] == 3
    assert diversity["ratio_to_base"]["value"] == pytest.approx(
        diversity["result"]["value"] / diversity["base"]["value"]
    )
    assert 0 < diversity["real"]["value"] < 2


def test_fitting_clips_fulfil_all_that_the_prompt_names():
    clips = real_clips()
    prompts = ["a slow flute tune, legato, without drums", "a fast flute tune, legato, without drums", "a flute"]
    found = fitting_clips(prompts, clips)
    assert list(found) == [0]  # the second fits nothing, the third names too little
    assert [clips.attributes[row]["lead"] for row in found[0]] == ["flute"] * 6


def test_the_summary_is_json_with_intervals_for_every_score(moved):
    summary = json.loads(json.dumps(moved.summary, allow_nan=False))
    assert set(summary["scores"]) == {"reward", "level", "caption", "low_tokens"}
    for score in summary["scores"].values():
        assert score["gain"]["low"] <= score["gain"]["value"] <= score["gain"]["high"]
    assert summary["kl"]["clip"]["low"] > 0 and summary["kl"]["token"] == pytest.approx(
        summary["kl"]["clip"]["value"] / (3 * 10), rel=1e-4
    )
    assert summary["frechet"]["base"] != summary["frechet"]["result"]


def test_a_policy_against_itself_changes_nothing():
    plan = dataclasses.replace(PLAN, prompts=PROMPTS[:16])
    same = evaluate_final(
        tiny_policy(), tiny_policy(), tiny_policy(), tiny_codec(), PANEL, plan, real_clips(), {}
    ).summary
    assert {score["verdict"] for score in same["scores"].values()} == {"unchanged"}
    assert same["diversity"]["ratio_to_base"]["value"] == pytest.approx(1.0)
    assert same["frechet"]["change"]["value"] == pytest.approx(0.0) and same["frechet"]["verdict"] == "unchanged"


def test_without_real_clips_or_a_space_the_rest_is_still_measured():
    bare = dataclasses.replace(PANEL, embedder=None)
    plan = dataclasses.replace(PLAN, prompts=PROMPTS[:8])
    summary = evaluate_final(tiny_policy(), tiny_policy(5), tiny_policy(), tiny_codec(), bare, plan, None, {}).summary
    assert summary["positions"] == summary["frechet"] == summary["diversity"] == {}
    assert summary["scores"]["level"]["n"] == 8
