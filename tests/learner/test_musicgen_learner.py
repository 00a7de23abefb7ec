"""The learner on MusicGen with random weights: identities of step 0, adapters, half precision, checkpoints."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actors.generator import Generator, sampler_gap
from actors.records import TrainingBatch
from cluster.weight_bus import Publication
from cluster.weight_transports import InProcess
from codec.checkpoint import load_codec
from codec.torchaudio_guard import import_torchaudio
from configs.schema import Config, LearnerConfig
from learner.checkpoint import damage, load_checkpoint, prune, save_checkpoint
from learner.learner import Learner
from learner.learner_actor import LearnerActor
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.lora import AdaptedLinear
from policy.musicgen.packed import Precision
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of

PROMPTS = ("slow piano", "slow piano", "upbeat jazz guitar with drums", "dark drone")
FRAMES = 5
GUIDED = SamplingSettings(0.8, 3.0)
BASE = LearnerConfig(batch_size=4, micro_batch_size=2, warmup_steps=0, lr_schedule="constant", learning_rate=1e-3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("m") / "musicgen", RandomShapes(stereo=True))


def learner_of(directory: Path, settings: SamplingSettings = GUIDED, **changes: Any) -> Learner:
    policy = load_policy(directory)
    reference = policy if changes.get("lora_rank") else load_policy(directory)
    return Learner(policy, reference, replace(BASE, **changes), settings, 10)


def batch_from(
    policy: Any, settings: SamplingSettings = GUIDED, seed: int = 0, precision: Precision = "float32"
) -> TrainingBatch:
    """What a generator with this policy would have made."""
    seeds = range(seed, seed + len(PROMPTS))
    codes, log_probs = sampler_of(policy, precision).sample(policy.encode_text(PROMPTS), seeds, FRAMES, settings)
    rows = len(PROMPTS)
    return TrainingBatch(
        row_ids=np.arange(rows),
        task_ids=np.zeros(rows, np.int64),
        prompts=PROMPTS,
        codes=codes.numpy().astype(np.uint16),
        log_probs=log_probs.numpy(),
        policy_versions=np.zeros(rows, np.int64),
        rewards=np.random.default_rng(seed).standard_normal(rows).astype(np.float32),
        scores={},
        sampling=settings,
    )


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("settings", [SamplingSettings(1.0, 1.0), GUIDED], ids=["plain", "guided"])
def test_step_zero_ratio_is_one_and_kl_zero(directory: Path, settings: SamplingSettings, lora_rank: int) -> None:
    subject = learner_of(directory, settings, lora_rank=lora_rank)
    metrics = subject.step(batch_from(load_policy(directory), settings))
    assert metrics["importance_weight_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["importance_weight_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] > 0 and metrics["value_grad_norm"] > 0
    assert subject.step(batch_from(load_policy(directory), settings))["kl"] > 1e-7


def test_adapters_learn_and_the_weights_stay(directory: Path) -> None:
    subject, base = learner_of(directory, lora_rank=4), load_policy(directory)
    for seed in range(3):
        subject.step(batch_from(base, seed=seed))
    layer, anchor = subject.policy.trunk.layers[0], subject.reference.trunk.layers[0]
    assert isinstance(layer.qkv, AdaptedLinear) and not isinstance(anchor.qkv, AdaptedLinear)
    assert subject.value is not None
    assert layer.qkv.weight is anchor.qkv.weight is subject.value.trunk.layers[0].qkv.weight
    assert torch.equal(layer.qkv.weight, base.trunk.layers[0].qkv.weight)
    assert all("lora" in name for name in subject.policy_optimiser.named)
    assert any("lora" in name for name in subject.value_optimiser.named)  # type: ignore[union-attr]


def test_what_is_published_is_merged(directory: Path) -> None:
    subject, served = learner_of(directory, lora_rank=4), load_policy(directory)
    for seed in range(3):
        subject.step(batch_from(served, seed=seed))
    weights = subject.weights()
    assert not any("lora" in name for name in weights)
    before = served.trunk.layers[0].qkv.weight.clone()
    served.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    assert not torch.equal(before, served.trunk.layers[0].qkv.weight)
    assert sampler_gap(served, sampler_of(served)) < 1e-5
    made = batch_from(served)
    codes, text = torch.from_numpy(made.codes.astype(np.int64)), served.encode_text(PROMPTS)
    with torch.no_grad():
        learnt = gather(log_distribution(subject.policy, codes, text, GUIDED), codes)
    assert (learnt - torch.from_numpy(made.log_probs)).abs().max() < 1e-5


def test_adapters_alone_are_published_and_merged_by_whoever_gets_them(directory: Path) -> None:
    """The same bits as merged weights, from a part of the bytes; a reader that comes late included."""
    config = Config()
    config.policy.checkpoint = str(directory)
    config.learner, config.sampling.temperature = replace(BASE, lora_rank=4), GUIDED.temperature
    config.sampling.guidance_scale, config.weights.changed_only = GUIDED.guidance_scale, True
    with mock.patch("learner.learner_actor.make_transport", lambda weights: InProcess()):
        actor = LearnerActor(config, "run-a", 1)
    early, late = (Generator(str(directory), str(directory), ("codes",), "run-a", 1) for _ in range(2))
    publications = []
    for seed in range(3):
        actor.step(batch_from(load_policy(directory), seed=seed))
        publications.append(publication_of(actor.publish()))
        assert early.activate(publications[-1]).version == seed + 1  # it computes what the learner does, and merges so
        assert same_weights(early, actor)
    late.activate(publications[-1])
    assert same_weights(late, actor)
    bases = {publication_of(publication.base).checksum for publication in publications}
    assert len(bases) == 1 and size_of(publications[2]) < size_of(publication_of(publications[2].base)) / 3
    again = publication_of(actor.publish(again=True))
    assert again.version == 3 and publication_of(again.base).version == 3 and late.activate(again).version == 3


def publication_of(publication: Publication | None) -> Publication:
    assert publication is not None
    return publication


def size_of(publication: Publication) -> int:
    return sum(tensor.size_bytes for tensor in publication.spec)


def same_weights(generator: Generator, actor: LearnerActor) -> bool:
    own, published = generator._policy.state_dict(), actor._learner.weights()
    return own.keys() == published.keys() and all(np.array_equal(own[name].numpy(), published[name]) for name in own)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_checkpoint_goes_on_bit_for_bit(directory: Path, tmp_path: Path, lora_rank: int) -> None:
    base = load_policy(directory)
    whole = learner_of(directory, lora_rank=lora_rank)
    whole.step(batch_from(base, seed=0))
    path = save_checkpoint(tmp_path, 1, whole, {"cursor": 3}, {})
    assert (path / "adapters.safetensors").exists() == bool(lora_rank)
    again = learner_of(directory, lora_rank=lora_rank)
    assert load_checkpoint(path, again) == {"cursor": 3}
    metrics = [subject.step(batch_from(base, seed=9)) for subject in (whole, again)]
    assert metrics[0] == metrics[1]
    assert all(
        np.array_equal(one, other)
        for one, other in zip(whole.weights().values(), again.weights().values(), strict=True)
    )
    exported = load_policy(path / "policy").state_dict()  # a policy to use elsewhere, adapters merged
    assert not any("lora" in name for name in exported)
    assert not torch.equal(exported["trunk.layers.0.qkv.weight"], base.state_dict()["trunk.layers.0.qkv.weight"])


def test_checkpoints_of_a_run_share_the_file_of_what_never_learns(directory: Path, tmp_path: Path) -> None:
    """One file for text encoder and codec, until somebody touches it; each checkpoint is whole all the same."""
    subject = learner_of(directory)
    paths = [save_checkpoint(tmp_path, 1, subject, {}, {})]
    subject.step(batch_from(load_policy(directory)))
    paths.append(save_checkpoint(tmp_path, 2, subject, {}, {}))
    frozen = paths[0] / "policy" / "model-00002-of-00002.safetensors"
    assert frozen.samefile(paths[1] / "policy" / frozen.name) and frozen.stat().st_nlink == 2
    assert all(name.startswith(("text_encoder.", "audio_encoder.")) for name in load_file(frozen))
    os.utime(frozen, (0, 0))
    paths.append(save_checkpoint(tmp_path, 3, subject, {}, {}))
    assert not frozen.samefile(paths[2] / "policy" / frozen.name)
    prune(tmp_path, keep=1)
    assert [path.exists() for path in paths] == [False, False, True] and damage(paths[2]) is None
    saved, sound = load_policy(paths[2] / "policy"), load_codec(paths[2] / "policy")
    assert saved.state_dict().keys() == subject.policy.state_dict().keys()
    assert all(torch.equal(tensor, subject.policy.state_dict()[name]) for name, tensor in saved.state_dict().items())
    assert sound.version == load_codec(directory).version
    theirs = theirs_of(paths[2] / "policy")  # nothing is missing there either
    assert torch.equal(theirs["decoder.lm_heads.0.weight"], saved.heads.weight[: saved.shapes.entries])


def theirs_of(folder: Path) -> dict[str, Any]:
    """What transformers makes of a directory; fails where it finds weights missing or unexpected."""
    transformers = pytest.importorskip("transformers")
    import_torchaudio()
    model, found = transformers.MusicgenForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return model.state_dict()


def test_a_sampler_in_half_precision_is_measured_and_corrected(directory: Path) -> None:
    """bf16 samples, float32 learns: the ratio of a cell is that of the two distributions, and the metrics show it."""
    subject, made = learner_of(directory), batch_from(load_policy(directory), precision="bfloat16")
    codes = torch.from_numpy(made.codes.astype(np.int64))
    text = subject.policy.encode_text(PROMPTS)
    with torch.no_grad():
        exact = log_distribution(subject.policy, codes, text, GUIDED)
    gap = gather(exact, codes) - torch.from_numpy(made.log_probs)
    assert 1e-4 < gap.abs().mean() < 0.1
    metrics = subject.step(made)
    assert metrics["sampler_mismatch"] == pytest.approx(float(gap.abs().mean()), rel=1e-3)
    assert metrics["importance_weight_max"] > 1.001
    clipped = float(gap.exp().clamp_max(BASE.importance_clip).mean())
    assert metrics["importance_weight_mean"] == pytest.approx(clipped, abs=1e-4)


def test_the_correction_reaches_the_gradient(directory: Path) -> None:
    """The gradient of bf16 samples is that of their log-probabilities under float32, each times pi / mu."""
    settings = replace(BASE, freeze=[], alpha=0.0, baseline="batch_mean", grad_clip=1e9)
    policy = load_policy(directory)
    subject = Learner(policy, load_policy(directory), settings, GUIDED, 10)
    made = batch_from(policy, precision="bfloat16")
    made = replace(made, log_probs=made.log_probs - np.float32(0.1))  # so that the weight is far from one
    codes, plain = torch.from_numpy(made.codes.astype(np.int64)), load_policy(directory)
    log_pi = gather(log_distribution(plain, codes, plain.encode_text(PROMPTS), GUIDED), codes)
    weights = (log_pi.detach() - torch.from_numpy(made.log_probs)).exp().clamp_max(BASE.importance_clip)
    advantage = torch.from_numpy(made.rewards - made.rewards.mean())[:, None, None]
    (-(weights * log_pi * advantage).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None]).norm()
    assert subject.step(made)["grad_norm"] == pytest.approx(float(expected), rel=1e-3)


def test_weights_corrected_by_the_ratio_estimate_the_learners_own_distribution(directory: Path) -> None:
    """20,000 first cells from a bf16 sampler: E_mu[pi / mu f] = E_pi[f] for f = its number, E_mu[pi / mu] = 1."""
    exact = load_policy(directory)
    rows, settings = 20_000, SamplingSettings(0.5, 6.0)  # cold and strongly guided, so that rounding tells
    text = exact.encode_text(PROMPTS[:1])
    codes, log_mu = sampler_of(exact, "bfloat16").sample(text.expand(rows, -1), range(rows), 1, settings)
    with torch.no_grad():
        log_pi = log_distribution(exact, codes[:1], text, settings)[0, 0, 0]  # of the first cell, which knows no other
    tokens, entries = codes[:, 0, 0], torch.arange(len(log_pi), dtype=torch.float64)
    weights = (log_pi[tokens] - log_mu[:, 0, 0]).double().exp()
    expected, spread = (log_pi.double().exp() * entries).sum(), (weights * entries[tokens]).std() / rows**0.5
    assert abs((weights * entries[tokens]).mean() - expected) < 4 * spread
    assert float(weights.mean()) == pytest.approx(1, abs=4 * float(weights.std()) / rows**0.5 + 1e-4)
