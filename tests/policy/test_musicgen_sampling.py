"""What a MusicGen's sampler says of its samples is what the learner computes of them, cell by cell."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from codec.layout import delay_pattern
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.packed import PRECISIONS, Precision, Steps
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.musicgen.torch_steps import group_size
from policy.port import SamplingSettings
from policy.samplers import sampler_of

PROMPTS = ["slow piano", "upbeat jazz guitar with drums", ""]
FRAMES = 6


@pytest.fixture(scope="module", params=[False, True], ids=["mono", "stereo"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_policy(write_random(tmp_path_factory.mktemp("m") / "musicgen", RandomShapes(stereo=request.param)))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.8, 1.0])
def test_sampler_and_learner_agree_on_every_cell(policy: Any, guidance: float, temperature: float) -> None:
    settings = SamplingSettings(temperature, guidance)
    text = policy.encode_text(PROMPTS)
    codes, log_probs = sampler_of(policy).sample(text, [1, 2, 3], FRAMES, settings)
    assert codes.shape == (3, len(policy.streams), FRAMES) and int(codes.max()) < policy.streams[0].size
    with torch.no_grad():
        taught = gather(log_distribution(policy, codes, text, settings), codes)
    assert (taught - log_probs).abs().max() < 1e-5
    assert log_probs.std() > 0.1


@pytest.mark.parametrize("shapes", [RandomShapes(width=30, heads=2, entries=32), RandomShapes(width=96, heads=1)])
def test_heads_of_any_width_over_many_places(shapes: RandomShapes, tmp_path: Path) -> None:
    subject, settings = load_policy(write_random(tmp_path / "m", shapes)), SamplingSettings(1.0, 2.0)
    text = subject.encode_text([*PROMPTS, "slow " * 40])
    codes, log_probs = sampler_of(subject).sample(text, range(4), 70, settings)
    with torch.no_grad():
        taught = gather(log_distribution(subject, codes, text, settings), codes)
    assert (taught - log_probs).abs().max() < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("slots", [1, 2, 9])
def test_clips_of_different_lengths_do_not_wait(policy: Any, slots: int, precision: Precision) -> None:
    """Each is what it is alone, to the bit, whoever was in its slot before."""
    settings, sampler = SamplingSettings(0.8, 3.0), sampler_of(policy, precision)
    prompts, frames = [*PROMPTS, PROMPTS[1], PROMPTS[0]], [40, 2, 7, 35, 1]
    text = policy.encode_text(prompts)
    found = sampler.sample_each(text, range(5), frames, settings, slots)
    for row, (codes, log_probs) in enumerate(found):
        alone, own = sampler.sample(text[row : row + 1], [row], frames[row], settings)
        assert torch.equal(codes, alone[0]) and torch.equal(log_probs, own[0])
    with pytest.raises(ValueError, match="one seed a row"):
        sampler.sample_each(text, range(5), [3, 3, 0, 3, 3], settings, slots)
    for lengths, count in (([3, 3], slots), (frames, 0)):
        with pytest.raises(ValueError, match="one length a row"):
            sampler.sample_each(text, range(5), lengths, settings, count)


def test_slots_are_refilled_at_once(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clips of 10 steps and one of 40, in two slots: 40 steps, not 10 + 40 + 10 + 10."""
    taken, steps = [], Steps.next
    monkeypatch.setattr(Steps, "next", lambda self, *given: (taken.append(1), steps(self, *given))[1])
    late = max(policy.shapes.delays)
    frames = [40 - late, *[10 - late] * 4]
    text = policy.encode_text(["slow piano"] * 5)
    found = sampler_of(policy).sample_each(text, range(5), frames, SamplingSettings(), 2)
    assert len(taken) == 40 and all(bool((log_probs < 0).all()) for _, log_probs in found)


@pytest.mark.parametrize("small", [True, False], ids=["rows", "columns"])
def test_two_threads_draw_the_same(policy: Any, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights: each thread takes rows of its own. Large ones: the threads share each product."""
    monkeypatch.setattr("policy.musicgen.packed.SMALL_BYTES", 10**9 if small else 0)
    monkeypatch.setattr("policy.musicgen.packed.LEAST_WORK", 1000)
    settings, text = SamplingSettings(1.0, 3.0), policy.encode_text(PROMPTS * 8)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(sampler_of(policy).sample(text, range(24), FRAMES, settings))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_new_weights_are_used_after_refresh_and_not_before(policy: Any) -> None:
    changed, text, settings = copy.deepcopy(policy), policy.encode_text(PROMPTS), SamplingSettings(1.0, 3.0)
    sampler = sampler_of(changed)
    before = sampler.sample(text, [1, 2, 3], FRAMES, settings)[1]
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    assert torch.equal(sampler.sample(text, [1, 2, 3], FRAMES, settings)[1], before)
    sampler.refresh()
    codes, after = sampler.sample(text, [1, 2, 3], FRAMES, settings)
    with torch.no_grad():
        taught = gather(log_distribution(changed, codes, text, settings), codes)
    assert (taught - after).abs().max() < 1e-5 and not torch.equal(after, before)


def test_modules_that_no_kernel_serves_are_sampled_by_torch(policy: Any) -> None:
    wide, settings = copy.deepcopy(policy).double(), SamplingSettings(1.0, 3.0)
    text = policy.encode_text([prompt for prompt in PROMPTS for _ in range(2)])
    codes, log_probs = sampler_of(wide).sample(text, range(6), FRAMES, settings)
    compiled, others = sampler_of(policy).sample(text, range(6), FRAMES, settings)
    ((first, _), (second, _)) = sampler_of(wide).sample_each(text[:2], [0, 1], [FRAMES, 2], settings, 2)
    assert torch.equal(first, codes[0]) and torch.equal(second[0], codes[1, 0, :2])
    assert torch.equal(codes, compiled) and (log_probs - others).abs().max() < 1e-5


def test_a_row_depends_on_its_prompt_and_seed_alone(policy: Any) -> None:
    settings, sampler = SamplingSettings(1.0, 3.0), sampler_of(policy)
    together, _ = sampler.sample(policy.encode_text(PROMPTS), [1, 2, 3], FRAMES, settings)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = sampler.sample(policy.encode_text([prompt]), [row + 1], FRAMES, settings)
        assert torch.equal(alone[0], together[row])
    longer, _ = sampler.sample(policy.encode_text(PROMPTS), [1, 2, 3], FRAMES + 2, settings)
    assert torch.equal(longer[:, 0, :FRAMES], together[:, 0])  # the coarsest level is drawn first


def test_groups_share_their_text_and_change_nothing(policy: Any) -> None:
    settings, sampler = SamplingSettings(1.0, 3.0), sampler_of(policy)
    grouped = policy.encode_text([prompt for prompt in PROMPTS[:2] for _ in range(3)])
    shuffled = grouped[[0, 3, 1, 4, 2, 5]]
    assert (group_size(grouped), group_size(shuffled), group_size(grouped[:4])) == (3, 1, 1)
    codes, log_probs = sampler.sample(grouped, [1, 2, 3, 4, 5, 6], FRAMES, settings)
    others, other_log_probs = sampler.sample(shuffled, [1, 4, 2, 5, 3, 6], FRAMES, settings)
    assert torch.equal(codes[[0, 3, 1, 4, 2, 5]], others)
    assert (log_probs[[0, 3, 1, 4, 2, 5]] - other_log_probs).abs().max() < 1e-5
    assert not torch.equal(codes[0], codes[1])


def test_frequencies_follow_the_distribution(policy: Any) -> None:
    """4,000 draws of the first cell against its probabilities: chi-squared with 63 degrees of freedom below 120."""
    settings, text = SamplingSettings(0.8, 3.0), policy.encode_text(PROMPTS[:1])
    codes, _ = sampler_of(policy).sample(text.expand(4000, -1), range(4000), 1, settings)
    with torch.no_grad():
        expected = log_distribution(policy, codes[:1, :, :1], text, settings)[0, 0, 0].exp() * 4000
    counts = torch.bincount(codes[:, 0, 0], minlength=len(expected)).double()
    assert float(((counts - expected) ** 2 / expected).sum()) < 120


def test_states_of_the_trunk_know_the_past_only(policy: Any) -> None:
    codes, text = torch.zeros(1, len(policy.streams), FRAMES, dtype=torch.int64), policy.encode_text(PROMPTS[:1])
    changed = codes.clone()
    changed[:, :, 3:] = 7
    with torch.no_grad():
        before, after = policy.trunk(codes, text), policy.trunk(changed, text)
        logits, others = policy(codes, text), policy(changed, text)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])
    assert torch.equal(logits[..., 0, :3, :], others[..., 0, :3, :])
    assert policy(codes[..., :1], text).shape[2] == 1


def test_copies_share_the_frozen_text_encoder(policy: Any) -> None:
    twin = copy.deepcopy(policy)
    assert twin.prompts is policy.prompts and twin.trunk.prompts is policy.prompts
    assert twin.heads.weight.data_ptr() != policy.heads.weight.data_ptr()
    assert not any("t5" in name or "prompts" in name for name in policy.state_dict())


def test_delays_of_stereo_pairs() -> None:
    layout = delay_pattern(4, 3, (0, 0, 1, 1))
    codes = torch.arange(12).reshape(1, 4, 3)
    expected = [[99, 0, 1, 2, 99], [99, 3, 4, 5, 99], [99, 99, 6, 7, 8], [99, 99, 9, 10, 11]]
    assert layout.to_sequence(codes, 99)[0].tolist() == expected
    assert torch.equal(layout.from_sequence(layout.to_sequence(codes, 99)), codes)


def test_wrong_sizes_are_refused(policy: Any) -> None:
    text = policy.encode_text(PROMPTS[:1])
    with pytest.raises(ValueError, match="one seed a row"):
        sampler_of(policy).sample(text, [1, 2], FRAMES, SamplingSettings())
    with pytest.raises(ValueError, match="codes: got shape"):
        policy(torch.zeros(1, 3, 4, dtype=torch.int64), text)
    with pytest.raises(TypeError, match="sampler"):
        sampler_of(torch.nn.Linear(1, 1))


def test_random_checkpoints_are_reproducible(tmp_path: Path) -> None:
    folders = [write_random(tmp_path / name, RandomShapes(seed=9)) for name in ("a", "b")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
