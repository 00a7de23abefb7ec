import numpy as np
import pytest
import torch

from codec.log_mel import log_mel
from evaluation.divergence import kl_per_clip
from evaluation.evaluate import Panel, clip_seed, evaluate_policy
from evaluation.score_rows import MIXTURE, score_matrix
from policy.log_probs import log_distribution
from policy.port import SamplingSettings
from tests.evaluation.tiny_parts import PROMPTS, Level, LowTokens, tiny_codec, tiny_policy

SAMPLING = SamplingSettings(0.9, 1.0)
PANEL = Panel((Level(),), (LowTokens(),), lambda scores: (scores["level"] + 5.0) / 2.0, LowTokens())


def evaluate(policy=None, panel=PANEL, **changes):
    settings = {"seconds": 0.4, "seeds": [7], "sampling": SAMPLING, "batch_size": 5, "samples": 3} | changes
    return evaluate_policy(policy or tiny_policy(), tiny_codec(), panel, PROMPTS, **settings)


def test_every_prompt_is_scored_once_a_seed_by_every_scorer():
    result = evaluate(seeds=[7, 8], learner_step=50)
    assert len(result.rows) == len(PROMPTS) * 2 * 3
    assert set(result.rows["learner_step"].to_pylist()) == {50}
    flags = set(zip(result.rows["judge"].to_pylist(), result.rows["in_reward"].to_pylist(), strict=True))
    assert flags == {(MIXTURE, True), ("level", True), ("low_tokens", False)}
    assert result.codes.shape == (24, 3, 10) and result.embeddings.shape == (24, 6)
    assert len(result.clips) == 3 and result.clips.pcm.shape == (3, 1, 6400)
    assert all(len(values) == 3 for values in result.scores.values())


def test_scores_do_not_depend_on_the_batch_size():
    whole, pieces = evaluate(batch_size=12), evaluate(batch_size=1)
    assert np.array_equal(whole.codes, pieces.codes)
    for judge in (MIXTURE, "level", "low_tokens"):
        assert score_matrix(whole.rows, 0, judge) == pytest.approx(score_matrix(pieces.rows, 0, judge), abs=1e-4)


def test_base_and_result_get_the_same_noise_and_prompts_get_their_own():
    assert evaluate(tiny_policy(1)).rows["seed"] == evaluate(tiny_policy(2)).rows["seed"]
    seeds = {clip_seed(seed, prompt) for seed in range(20) for prompt in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)


def test_scores_come_from_the_waveform_that_is_heard():
    result = evaluate()
    heard = log_mel(torch.from_numpy(result.clips.pcm[:, 0])).numpy()
    assert result.scores["level"] == pytest.approx(heard.mean((1, 2)), abs=1e-5)
    acoustic = torch.from_numpy(result.clips.codes[:, 1:].astype(np.int64))
    assert result.clips.pcm == pytest.approx(tiny_codec().decode(acoustic).numpy(), abs=1e-5)
    assert result.scores[MIXTURE] == pytest.approx((result.scores["level"] + 5.0) / 2.0, abs=1e-5)


def test_a_judge_that_fails_on_a_clip_misses_that_clip_only():
    class Picky(Level):
        name = "picky"

        def score(self, clips):
            if any("number 4" in prompt for prompt in clips.prompts):
                raise RuntimeError("no fours")
            return super().score(clips)

    result = evaluate(panel=Panel((), (Level(), Picky())))
    picky, level = (score_matrix(result.rows, 0, judge)[:, 0] for judge in ("picky", "level"))
    assert np.isnan(picky[4]) and np.delete(picky, 4) == pytest.approx(np.delete(level, 4), abs=1e-4)
    assert result.means["picky"] == pytest.approx(np.delete(level, 4).mean(), abs=1e-4)


def test_progress_counts_all_clips():
    seen = []
    evaluate(progress=lambda done, whole: seen.append((done, whole)))
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_kl_equals_the_sum_over_cells_and_entries():
    policy, reference, settings = tiny_policy(1), tiny_policy(2), SamplingSettings(0.8, 1.5)
    codes = np.random.default_rng(0).integers(0, 8, (3, 3, 5)).astype(np.uint16)
    prompts = PROMPTS[:3]
    own, other = (
        log_distribution(p, torch.from_numpy(codes.astype(np.int64)), p.encode_text(prompts), settings)
        .detach()
        .double()
        for p in (policy, reference)
    )
    expected = [
        sum(
            float(own[b, k, t, v].exp() * (own[b, k, t, v] - other[b, k, t, v]))
            for k in range(3)
            for t in range(5)
            for v in range(8)
        )
        for b in range(3)
    ]
    assert kl_per_clip(policy, reference, codes, prompts, settings, batch_size=2) == pytest.approx(expected, rel=1e-4)


def test_kl_of_a_policy_from_itself_is_zero():
    codes = np.zeros((2, 3, 5), np.uint16)
    assert kl_per_clip(tiny_policy(), tiny_policy(), codes, PROMPTS[:2], SAMPLING) == pytest.approx(
        np.zeros(2), abs=1e-6
    )
