"""The sampler against teacher forcing, its noise, its frequencies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from policy_parts import PROMPTS, small_policy

from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.operations import norm
from policy.packed import alone
from policy.port import SamplingSettings
from policy.sampler import Sampler, uniform_noise
from policy.text import default_tokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

SETTINGS = [SamplingSettings(temperature, guidance) for temperature in (0.8, 1.0) for guidance in (1.0, 3.0)]
SHIPPED = Path(__file__).parents[2] / "assets/tiny/policy"
PROMPTS_OF_THE_WORLD = [
    "a slow piano tune with strings",
    "fast drums and bass, no chords",
    "a flute melody in a high register",
    "mid-tempo organ",
    "lively guitar and trumpet",
    "quiet strings, low",
    "a bright tune",
    "",
]
SHAPES = [((16, 16, 16), 1), ((16, 16, 16), 2), ((16, 8, 12), 1), ((16,), 1)]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("sizes", "key_heads"), SHAPES)
def test_log_probabilities_are_those_of_teacher_forcing(
    sizes: tuple[int, ...], key_heads: int, settings: SamplingSettings
) -> None:
    policy = small_policy(sizes, key_heads)
    text = policy.encode_text(PROMPTS)
    codes, log_probs = Sampler(policy).sample(text, range(4), 12, settings)
    with torch.no_grad():
        forced = gather(log_distribution(policy, codes, text, settings), codes)
    assert codes.shape == log_probs.shape == (4, len(sizes), 12)
    assert codes.dtype == torch.int64
    torch.testing.assert_close(log_probs, forced, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_default_shapes_agree_to_a_hundred_thousandth(settings: SamplingSettings) -> None:
    torch.manual_seed(0)
    policy = TinyMusicLM(TinyMusicLMConfig(), default_tokenizer()).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(2.0)
    text = policy.encode_text(["a slow piano tune", "fast drums, no chords", ""])
    codes, log_probs = Sampler(policy).sample(text, (1, 2, 3), 20, settings)
    with torch.no_grad():
        forced = gather(log_distribution(policy, codes, text, settings), codes)
    torch.testing.assert_close(log_probs, forced, atol=1e-5, rtol=0)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shipped policy is not there")
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_shipped_policy_agrees_to_a_hundred_thousandth(settings: SamplingSettings) -> None:
    """Trained weights: rare cells of -15 nats, from logits of +-20."""
    policy = load_policy(str(SHIPPED))
    text = policy.encode_text(PROMPTS_OF_THE_WORLD * 4)
    codes, log_probs = Sampler(policy).sample(text, range(len(text)), 50, settings)
    with torch.no_grad():
        forced = gather(log_distribution(policy, codes, text, settings), codes)
    assert float(log_probs.min()) < -8.0
    torch.testing.assert_close(log_probs, forced, atol=1e-5, rtol=0)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shipped policy is not there")
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_shipped_policy_draws_from_the_very_logits_of_teacher_forcing(guidance: float) -> None:
    """Of logits that differ in their last bits, some log-probabilities would differ by 1e-5."""
    policy = load_policy(str(SHIPPED))
    text = policy.encode_text(PROMPTS_OF_THE_WORLD * 2)
    codes, log_probs = Sampler(policy).sample(text, range(len(text)), 30, SamplingSettings(0.8, guidance))
    with torch.no_grad():
        conditioned, null = policy(codes, text), policy(codes, policy.null_text(len(text)))
    logits = conditioned if guidance == 1.0 else null + guidance * (conditioned - null)
    exact = gather(torch.log_softmax((logits / 0.8).double(), dim=-1), codes)
    torch.testing.assert_close(log_probs.double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_states_are_those_of_teacher_forcing_to_the_bit(key_heads: int) -> None:
    policy = small_policy(key_heads=key_heads)
    sampler, text = Sampler(policy), policy.encode_text(PROMPTS)
    codes, _ = sampler.sample(text, range(4), 12, SamplingSettings())
    blocks = sampler._prefix(text, sampler.turns)
    x, found = np.tile(sampler.embed_start, (4, 1)), []
    for frame in range(12):
        state = alone(x)
        for block in blocks:
            state = block.step(state, text.shape[1] + frame)
        found.append(norm(torch.from_numpy(state[0] + state[1]), policy.trunk.norm.weight).detach())
        x = sampler._embed(codes[:, :, frame].t().contiguous().numpy())
    with torch.no_grad():
        assert torch.equal(torch.stack(found, dim=1), policy.temporal_states(codes, text))


def test_two_threads_draw_the_same() -> None:
    policy = small_policy()
    sampler, text = Sampler(policy), policy.encode_text(PROMPTS * 10)
    one, two = (_sampled_with(threads, sampler, text) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_two_threads_draw_in_inference_mode_too() -> None:
    """Inference mode belongs to the caller's thread, not to those that fill the rows."""
    policy = small_policy()
    sampler, text = Sampler(policy), policy.encode_text(PROMPTS * 10)
    with torch.inference_mode():
        inside = _sampled_with(2, sampler, text)
    assert all(torch.equal(a, b) for a, b in zip(inside, _sampled_with(1, sampler, text), strict=True))


def _sampled_with(threads: int, sampler: Sampler, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return sampler.sample(text, range(len(text)), 6, SamplingSettings(0.9, 2.0))
    finally:
        torch.set_num_threads(before)


def test_a_row_depends_on_its_seed_and_text_alone() -> None:
    policy = small_policy()
    sampler, settings = Sampler(policy), SamplingSettings(1.0)
    text = policy.encode_text(PROMPTS)
    together, _ = sampler.sample(text, (5, 6, 7, 5), 12, settings)
    alone, _ = sampler.sample(text[1:2], (6,), 12, settings)
    assert torch.equal(together[1:2], alone)
    assert torch.equal(together[0], together[3])  # the same prompt, the same seed
    other, _ = sampler.sample(text, (5, 8, 7, 5), 12, settings)
    assert not torch.equal(together[1], other[1])
    assert torch.equal(together[2], other[2])


def test_a_shorter_sequence_is_the_beginning_of_a_longer_one() -> None:
    policy = small_policy()
    text = policy.encode_text(PROMPTS)
    short, long = (Sampler(policy).sample(text, range(4), frames, SamplingSettings())[0] for frames in (7, 20))
    assert torch.equal(short, long[:, :, :7])


def test_new_weights_are_used_after_refresh_and_not_before() -> None:
    policy, other = small_policy(seed=0), small_policy(seed=1)
    text, settings = policy.encode_text(PROMPTS), SamplingSettings()
    sampler = Sampler(policy)
    old, old_log_probs = sampler.sample(text, range(4), 10, settings)
    policy.load_state_dict(other.state_dict())
    still, still_log_probs = sampler.sample(text, range(4), 10, settings)
    assert torch.equal(old, still)
    assert torch.equal(old_log_probs, still_log_probs)
    sampler.refresh()
    new, new_log_probs = sampler.sample(text, range(4), 10, settings)
    fresh, fresh_log_probs = Sampler(other).sample(text, range(4), 10, settings)
    assert torch.equal(new, fresh)
    assert torch.equal(new_log_probs, fresh_log_probs)
    assert not torch.equal(old, new)


@pytest.mark.parametrize("settings", [SamplingSettings(0.8), SamplingSettings(0.8, 3.0)])
def test_frequencies_are_those_of_the_distribution(settings: SamplingSettings) -> None:
    policy, rows = small_policy(sizes=(6, 8)), 4000
    text = policy.encode_text(["slow piano"]).expand(rows, -1)
    codes, _ = Sampler(policy).sample(text, range(rows), 1, settings)
    with torch.no_grad():
        log_dist = log_distribution(policy, codes, text, settings)
    joint = torch.zeros(6, 8)
    for first in range(6):
        chance = log_dist[:, 0, 0, first].exp().mean()
        chosen = codes[:, 0, 0] == first
        if chosen.any():
            joint[first] = chance * log_dist[chosen][0, 1, 0].exp()
    counts = torch.bincount(codes[:, 0, 0] * 8 + codes[:, 1, 0], minlength=48).view(6, 8)
    expected = joint * rows
    likely = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[likely].sum()
    freedom = int(likely.sum()) - 1
    assert freedom > 8
    assert float(chi_square) < freedom + 5 * (2 * freedom) ** 0.5


def test_noise_is_uniform_below_one_and_of_each_seed() -> None:
    noise = uniform_noise((3, 4, 3), 50, 5)
    assert noise.shape == (50, 5, 3)
    assert torch.equal(noise[:, :, 0], noise[:, :, 2])
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])
    assert 0.0 <= float(noise.min()) < 0.05
    assert 0.95 < float(noise.max()) < 1.0


def test_codes_can_be_learnt_from() -> None:
    """What comes out of the sampler can enter a differentiated forward pass."""
    policy = small_policy()
    text = policy.encode_text(PROMPTS)
    codes, _ = Sampler(policy).sample(text, range(4), 5, SamplingSettings())
    gather(log_distribution(policy, codes, text, SamplingSettings()), codes).sum().backward()
    assert policy.depth.heads.grad is not None


@pytest.mark.parametrize(("seeds", "frames"), [((1,), 5), ((1, 2, 3, 4), 0), ((1, 2, 3, 4), 25)])
def test_wrong_numbers_are_refused(seeds: tuple[int, ...], frames: int) -> None:
    policy = small_policy()
    with pytest.raises(ValueError, match="allowed one seed a row"):
        Sampler(policy).sample(policy.encode_text(PROMPTS), seeds, frames, SamplingSettings())


def test_the_largest_uniform_number_finds_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cumulative sums of float32 probabilities often end a little below one."""
    policy = small_policy()

    def largest(seeds: tuple[int, ...], frames: int, streams: int) -> torch.Tensor:
        return torch.full((frames, streams, len(seeds)), 1.0 - 2.0**-24)

    monkeypatch.setattr("policy.sampler.uniform_noise", largest)
    codes, log_probs = Sampler(policy).sample(policy.encode_text(["a flute"] * 64), range(64), 6, SamplingSettings())
    sizes = torch.tensor([stream.size for stream in policy.streams])
    assert (codes < sizes[None, :, None]).all()
    assert torch.isfinite(log_probs).all()
