"""Learning with a MusicGen-Melody: identities of step 0, what stays as it is, checkpoints, fine-tuning, memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codec.musicgen_shapes import MusicGenShapes
from codec.torchaudio_guard import import_torchaudio
from configs.schema import Config
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner
from learner.memory import TEXT_PLACES, memory_need
from learner.model_folder import MusicGenModelFolder
from learner.ranks import recompute_blocks
from learner.supervised import Material, SupervisedSettings, SupervisedTraining
from policy.checkpoint import load_policy
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from tests.learner.test_musicgen_learner import BASE, GUIDED, PROMPTS, batch_from, learner_of

CHROMA = "trunk.embed_chroma."


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("m") / "melody", RandomShapes(kind="melody", chroma_places=9))


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_step_zero_ratio_is_one_and_kl_zero(directory: Path, lora_rank: int) -> None:
    subject, base = learner_of(directory, lora_rank=lora_rank), load_policy(directory)
    metrics = subject.step(batch_from(base))
    assert metrics["importance_weight_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["importance_weight_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] > 0 and metrics["value_grad_norm"] > 0
    assert subject.step(batch_from(base))["kl"] > 1e-7
    served = load_policy(directory)
    served.load_state_dict({name: torch.tensor(array) for name, array in subject.weights().items()})
    changed = {name for name, tensor in base.state_dict().items() if not torch.equal(tensor, served.state_dict()[name])}
    assert any(".layers." in name for name in changed) and not any(name.startswith(CHROMA) for name in changed)


def test_the_gradient_is_that_of_each_row_alone(directory: Path) -> None:
    """Prompts of unequal length in one pass, with each layer worked out again: what one row at a time gives."""
    made, gradients = batch_from(load_policy(directory)), []
    codes = torch.from_numpy(made.codes.astype(np.int64))
    for alone in (False, True):
        policy = load_policy(directory)
        text = policy.encode_text(PROMPTS)
        if not alone:
            recompute_blocks(policy)
        for rows in [[row] for row in range(len(codes))] if alone else [list(range(len(codes)))]:
            own = text[rows][:, : int((text[rows] != 0).sum(1).max())]
            policy(codes[rows], own, guidance_scale=3.0).log_softmax(-1)[..., 0].sum().backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    together, apart = gradients
    assert together.keys() == apart.keys() and not any(name.startswith(CHROMA) for name in together)
    for name, gradient in together.items():
        assert (gradient - apart[name]).abs().max() < 1e-5 * max(1.0, float(apart[name].abs().max())), name


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_checkpoint_goes_on_and_transformers_reads_it(directory: Path, tmp_path: Path, lora_rank: int) -> None:
    base, whole = load_policy(directory), learner_of(directory, lora_rank=lora_rank)
    whole.step(batch_from(base, seed=0))
    path = save_checkpoint(tmp_path, 1, whole, {"cursor": 3}, {})
    again = learner_of(directory, lora_rank=lora_rank)
    assert load_checkpoint(path, again) == {"cursor": 3}
    assert whole.step(batch_from(base, seed=9)) == again.step(batch_from(base, seed=9))
    transformers = pytest.importorskip("transformers")
    import_torchaudio()
    kind = transformers.MusicgenMelodyForConditionalGeneration
    model, found = kind.from_pretrained(path / "policy", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    saved, theirs = load_policy(path / "policy"), model.state_dict()
    assert torch.equal(theirs["decoder.lm_heads.0.weight"], saved.heads.weight[: saved.shapes.entries])
    assert torch.equal(theirs["audio_enc_to_dec_proj.weight"], base.trunk.embed_chroma.weight)


def test_a_sampler_in_half_precision_is_measured(directory: Path) -> None:
    subject = Learner(load_policy(directory), load_policy(directory), replace(BASE, baseline="batch_mean"), GUIDED, 10)
    metrics = subject.step(batch_from(load_policy(directory), precision="bfloat16"))
    assert 1e-4 < metrics["sampler_mismatch"] < 0.1


def test_fine_tuning_leaves_the_chroma(directory: Path, tmp_path: Path) -> None:
    policy, base = load_policy(directory), load_policy(directory)
    codes = np.random.default_rng(0).integers(64, size=(4, 4, 8))
    material = Material(codes, ["slow piano", "upbeat jazz guitar with drums"] * 2)
    settings = SupervisedSettings(steps=8, batch_size=4, caption_dropout=0.5, crop_least=8, crop_most=8, warmup_steps=1)
    training = SupervisedTraining(policy, material, material, tmp_path, settings, print)
    losses = [training.update() for _ in range(8)]
    assert losses[-1] < losses[0]
    same = {name for name, tensor in base.state_dict().items() if torch.equal(tensor, policy.state_dict()[name])}
    assert same == {CHROMA + "weight", CHROMA + "bias"}


def test_the_prefix_is_counted_in_the_memory(directory: Path) -> None:
    """MusicGen-Melody's own size (arXiv 2306.05284): 1.5 B parameters, 235 places and a text's before the tokens."""
    shapes = MusicGenShapes(1536, 48, 24, 6144, 4, 2048, 768, chroma_places=235, chroma_bins=12)
    assert shapes.parameters == pytest.approx(1.386e9, rel=2e-3)
    config, shorter = Config(), replace(shapes, chroma_places=135)
    config.sampling.guidance_scale = 3.0
    config.learner = replace(config.learner, micro_batch_size=1)
    needs: list[Any] = [memory_need(config, each) for each in (shapes, shorter)]
    assert needs[0].learner - needs[1].learner == 4 * 100 * 1536 * 48 * (17 + 17)
    rows = config.actors.rollout_size * config.actors.generators
    assert needs[0].generators - needs[1].generators == 4 * 100 * 2 * 48 * 1536 * 2 * rows
    plain = memory_need(config, replace(shapes, chroma_places=0))
    assert plain.learner > needs[0].learner > needs[1].learner and TEXT_PLACES > 0
    folder = MusicGenModelFolder(directory, "policy.checkpoint")
    assert "MusicGen-Melody (by text alone), mono" in folder.note
