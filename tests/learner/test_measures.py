"""The measures of cells made part by part against the slow way: whole distributions by torch's own linear layers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import LearnerConfig
from learner import measures
from learner.learner import Learner
from learner.measures import Measures, measure, measure_in_parts
from policy import linear, lora
from policy.checkpoint import load_policy
from policy.log_probs import log_distribution
from policy.lora import adapt
from policy.musicgen import model
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import PolicyOfStates, SamplingSettings

PROMPTS = ("slow piano", "", "upbeat jazz guitar with drums")
FRAMES, ENTRIES = 23, 64
PLAIN, GUIDED = SamplingSettings(1.0, 1.0), SamplingSettings(0.8, 3.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=[False, True], ids=["mono", "stereo"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy and an anchor with other weights."""
    folder = tmp_path_factory.mktemp("measures")
    shapes = [RandomShapes(stereo=request.param, entries=ENTRIES, seed=seed) for seed in (0, 1)]
    first, second = (write_random(folder / str(each.seed), each) for each in shapes)
    return first, second


def codes_for(policy: Any) -> Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(ENTRIES, (len(PROMPTS), len(policy.streams), FRAMES), generator=noise)


def loss_of(found: Measures) -> Tensor:
    """Any differentiable function of them in which each cell counts its own way."""
    log_pi, kl, _ = found
    weights = torch.linspace(-1, 1, log_pi.numel()).view(log_pi.shape)
    return (weights * log_pi).mean() + 0.3 * ((1 + weights.square()) * kl).mean()


def slow(policy: Any, anchor: Any, codes: Tensor, settings: SamplingSettings) -> Measures:
    text = policy.encode_text(PROMPTS)
    with ExitStack() as torchs_own:
        for module in (linear, lora, model):
            torchs_own.enter_context(mock.patch.object(module, "dense", F.linear))
        with torch.no_grad():
            log_ref = log_distribution(anchor, codes, text, settings)
        return measure(log_distribution(policy, codes, text, settings), log_ref, codes)


def in_parts(policy: Any, anchor: Any, codes: Tensor, settings: SamplingSettings, numbers: int) -> Measures:
    text, scale = policy.encode_text(PROMPTS), settings.guidance_scale
    with torch.no_grad():
        known = anchor(codes, text, read=lambda states: states, guidance_scale=scale)
    readouts = policy.readout, anchor.readout

    def read(states: Tensor) -> Measures:
        return measure_in_parts(readouts, (states, known), codes, settings, ENTRIES, numbers)

    return policy(codes, text, read=read, guidance_scale=scale)


@pytest.mark.parametrize("settings", [PLAIN, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("adapted", [False, True], ids=["weights", "adapters"])
def test_parts_make_the_whole(folders: tuple[Path, Path], settings: SamplingSettings, adapted: bool) -> None:
    """Values and every gradient, for parts of one frame, of some that do not divide the clip, and of all."""
    policy, anchor = (load_policy(folder) for folder in folders)
    assert isinstance(policy, PolicyOfStates)
    if adapted:
        adapt(policy, 4, 16.0, 0)
        for name, parameter in policy.named_parameters():
            if name.endswith("lora_b"):
                torch.nn.init.normal_(parameter, std=0.1)
    codes = codes_for(policy)
    expected = slow(policy, anchor, codes, settings)
    learns = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    wanted = torch.autograd.grad(loss_of(expected), learns, materialize_grads=True)
    assert max(grad.abs().max() for grad in wanted) > 1e-3
    cells_of_a_frame = len(PROMPTS) * len(policy.streams) * ENTRIES
    for numbers in (1, 5 * cells_of_a_frame, FRAMES * cells_of_a_frame):
        found = in_parts(policy, anchor, codes, settings, numbers)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert not found[2].requires_grad
        for one, other in zip(torch.autograd.grad(loss_of(found), learns, materialize_grads=True), wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_no_array_of_all_logits_is_ever_made(folders: tuple[Path, Path]) -> None:
    """Nothing of a quarter of their size comes about in either pass, where the slow way makes a dozen."""
    policy, anchor = (load_policy(folder) for folder in folders)
    codes = codes_for(policy)
    cells_of_a_frame = len(PROMPTS) * len(policy.streams) * ENTRIES
    assert _largest(lambda: in_parts(policy, anchor, codes, PLAIN, 5 * cells_of_a_frame), ENTRIES) <= 5 / FRAMES
    assert _largest(lambda: slow(policy, anchor, codes, PLAIN), ENTRIES) >= 1


def _largest(made: Any, entries: int) -> float:
    """The largest array [..., V] of a forward and backward pass, in logits of the whole clip."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.ndim == 4 and found.shape[-1] == entries:
                largest = max(largest, found.numel())
            return found

    with Watch():
        measured = made()
        loss_of(measured).backward()
    return largest / (measured[0].numel() * entries)


@pytest.mark.parametrize("settings", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_the_learner_takes_the_parts(folders: tuple[Path, Path], settings: SamplingSettings) -> None:
    policy, anchor = (load_policy(folder) for folder in folders)
    subject = Learner(policy, anchor, LearnerConfig(baseline="batch_mean"), settings, 10)
    codes = codes_for(policy)
    rows: Any = mock.Mock(codes=codes, text=policy.encode_text(PROMPTS))
    with mock.patch.object(measures, "distribution_of_logits", wraps=measures.distribution_of_logits) as seen:
        found = subject._measures(rows, shown=False)[0]
    assert seen.call_count == 2  # so small a clip is one part, of policy and anchor
    for one, other in zip(found, slow(policy, anchor, codes, settings), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
