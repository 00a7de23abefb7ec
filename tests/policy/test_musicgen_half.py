"""Sampling a MusicGen with 16-bit weights: what is said of a sample is what it was drawn from, rounding and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policy.checkpoint import load_policy
from policy.compiled import decoder
from policy.compiled.half import pairs_of
from policy.log_probs import gather, log_distribution
from policy.musicgen.packed import Packed, PackedMusicGen, Steps, room
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from policy.text import default_tokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig

PROMPTS = ["slow piano", "upbeat jazz guitar with drums", ""]
SETTINGS = SamplingSettings(0.9, 3.0)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_policy(write_random(tmp_path_factory.mktemp("m") / "musicgen", RandomShapes()))


def test_it_differs_from_the_policy_by_the_rounding(policy: Any) -> None:
    text = policy.encode_text(PROMPTS)
    codes, log_probs = sampler_of(policy, "bfloat16").sample(text, [1, 2, 3], 40, SETTINGS)
    with torch.no_grad():
        gap = (gather(log_distribution(policy, codes, text, SETTINGS), codes) - log_probs).abs()
    assert 1e-4 < float(gap.mean()) < 0.05 and float(gap.max()) < 0.5
    assert log_probs.std() > 0.1


def test_log_probabilities_are_those_that_it_draws_by(policy: Any) -> None:
    """First cells: the probabilities told add up to at most one, and 20,000 draws follow them (chi-squared)."""
    rows, settings = 20_000, SamplingSettings(0.5, 6.0)
    text = policy.encode_text(PROMPTS[:1]).expand(rows, -1)
    codes, log_probs = sampler_of(policy, "bfloat16").sample(text, range(rows), 1, settings)
    tokens, told = codes[:, 0, 0], log_probs[:, 0, 0].double().exp()
    entries = int(policy.streams[0].size)
    counts = torch.bincount(tokens, minlength=entries).double()
    chances = torch.zeros(entries, dtype=torch.float64).scatter_(0, tokens, told)
    assert torch.equal(chances[tokens], told)  # one number an entry
    assert 0.99 < float(chances.sum()) < 1 + 1e-6
    likely = chances * rows > 5
    expected = chances[likely] * rows
    freedom = int(likely.sum())
    assert freedom > 8
    assert float(((counts[likely] - expected) ** 2 / expected).sum()) < freedom + 5 * (2 * freedom) ** 0.5
    with torch.no_grad():
        exact = log_distribution(policy, codes[:1, :, :1], text[:1], settings)[0, 0, 0].double().exp()
    assert float((exact - chances).abs().max()) > 1e-4


def test_a_row_depends_on_its_prompt_and_seed_alone(policy: Any) -> None:
    sampler, text = sampler_of(policy, "bfloat16"), policy.encode_text(PROMPTS)
    together, log_probs = sampler.sample(text, [1, 2, 3], 5, SETTINGS)
    alone, own = sampler.sample(text[1:2], [2], 5, SETTINGS)
    assert torch.equal(alone[0], together[1]) and torch.equal(own[0], log_probs[1])


def test_caches_and_weights_have_sixteen_bits(policy: Any) -> None:
    packed = PackedMusicGen(policy, "bfloat16")
    text = packed.condition(policy.encode_text(PROMPTS))
    assert text is not None
    steps = Steps(packed, text, 3, 10, 3.0, shared=False)
    assert {cache.dtype.itemsize for cache in (*steps.caches, *text.layers[0], steps.normed, steps.attended)} == {2}
    assert packed.layers[0].qkv.panels.nbytes == 2 * policy.trunk.layers[0].qkv.weight.numel()


def test_modules_of_another_kind_are_rounded_too(policy: Any, tmp_path: Path) -> None:
    """What compiled kernels do not serve is sampled by a rounded copy of the modules."""
    wide = load_policy(write_random(tmp_path / "m", RandomShapes())).double()
    text = wide.encode_text(PROMPTS)
    codes, log_probs = sampler_of(wide, "bfloat16").sample(text, [1, 2, 3], 5, SETTINGS)
    with torch.no_grad():
        gap = (gather(log_distribution(wide, codes, text, SETTINGS), codes) - log_probs).abs()
    assert 1e-4 < float(gap.mean()) < 0.1
    assert wide.heads.weight.dtype == torch.float64


def test_the_tiny_musiclm_has_no_such_sampler() -> None:
    small = TinyMusicLM(TinyMusicLMConfig(temporal_layers=1, depth_layers=1), default_tokenizer())
    with pytest.raises(ValueError, match="precision: got bfloat16 with a TinyMusicLM, allowed float32"):
        sampler_of(small, "bfloat16")


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 32, 32), (9, 40, 33), (70, 129, 70)])
def test_products_of_pairs(rows: int, inputs: int, outputs: int) -> None:
    """Both sides are rounded to the nearest, as torch does; products and sums have 32 bits."""
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    packed = Packed(weight, "bfloat16")
    taken = packed.inputs_of(rows)
    decoder.fill(x.numpy(), taken)
    assert torch.equal(torch.from_numpy(taken[:, :inputs].view(np.int16)), x.bfloat16().view(torch.int16))
    exact = x.bfloat16().double() @ weight.bfloat16().double().t()
    assert torch.allclose(torch.from_numpy(packed(taken, packed.outputs_of(rows))).double(), exact, atol=1e-4)
    assert pairs_of(taken).shape == (rows, taken.shape[1] // 2)


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    """Ties to even, beyond the largest to infinity; what is no number stays so."""
    odd = [1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, np.nan, np.inf, -np.inf, 3.4e38, 1e-40, -0.0]
    silent = np.array([0x7F800001, 0x7FFFFFFF], np.uint32).view(np.float32)  # not numbers, told in the lowest bits
    x, out = np.concatenate([np.array(odd, np.float32), silent])[None], room((1, 32), True)
    decoder.fill(x, out)
    found = torch.from_numpy(out[:, : x.shape[1]].view(np.int16)).view(torch.bfloat16).float()
    assert torch.equal(found.nan_to_num(7), torch.from_numpy(x).bfloat16().float().nan_to_num(7))
