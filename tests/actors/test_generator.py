"""A generator serves exactly the weights that were published, and decodes what the scorers ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.generator import Generator, probe_log_prob
from actors.published import PublishedWeights
from actors.records import RolloutTask
from cluster.errors import RunFailed
from cluster.weight_bus import Probe, Publication, WeightBus
from cluster.weight_transports import InProcess
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.port import SamplingSettings
from policy.sampler import Sampler
from rewards.port import ClipView
from tests.system.tiny_world import build_tiny_world

EPOCH = "run-a"
TASK = RolloutTask(3, ("slow piano", "fast flute"), (11, 12), 6, SamplingSettings(0.9, 2.0))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_world(tmp_path_factory.mktemp("world")).folder


def generator_of(world: Path, *views: ClipView) -> Generator:
    return Generator(str(world / "policy"), str(world / "codec"), views, EPOCH, 1)


class Publisher:
    """A learner's end of the bus: a policy that changes, and its probe."""

    def __init__(self, world: Path) -> None:
        self.policy = load_policy(world / "policy")
        self.bus = WeightBus(EPOCH, InProcess())

    def train(self, seed: int) -> None:
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)

    def publish(self, version: int) -> Publication:
        codes = np.random.default_rng(0).integers(0, 32, size=(2, len(self.policy.streams), 4)).astype(np.uint16)
        probe = Probe(("", "slow"), codes, 0.0, temperature=0.9, guidance_scale=1.5)
        probe = replace(probe, log_prob=probe_log_prob(self.policy, probe))
        return self.bus.publish({name: t.numpy() for name, t in self.policy.state_dict().items()}, version, probe)


def test_no_work_before_the_first_activation(world: Path) -> None:
    generator = generator_of(world)
    assert generator.active_version() is None
    with pytest.raises(RunFailed, match="before any weights were activated"):
        generator.rollout(TASK)


def test_a_rollout_is_sampled_from_the_published_weights(world: Path) -> None:
    learner, generator = Publisher(world), generator_of(world, "log_mel", "codes")
    learner.train(seed=1)
    publication = learner.publish(version=7)
    echo = generator.activate(publication)
    assert (echo.version, echo.checksum) == (7, publication.checksum)
    rollout = generator.rollout(TASK)
    assert (rollout.policy_version, rollout.epoch, rollout.task) == (7, EPOCH, TASK)
    assert rollout.codes.dtype == np.uint16 and rollout.codes.shape == (2, len(learner.policy.streams), 6)
    codes = torch.from_numpy(rollout.codes.astype(np.int64))
    text = learner.policy.encode_text(TASK.prompts)
    with torch.no_grad():
        taught = gather(log_distribution(learner.policy, codes, text, TASK.sampling), codes)
    np.testing.assert_allclose(rollout.log_probs, taught.numpy(), atol=1e-5)


def test_the_same_task_is_the_same_rollout_on_any_generator(world: Path) -> None:
    learner = Publisher(world)
    publication = learner.publish(version=0)
    first, second = generator_of(world, "log_mel"), generator_of(world, "log_mel")
    first.activate(publication)
    first.rollout(replace(TASK, task_id=1, seeds=(5, 6)))
    second.activate(publication)
    a, b = first.rollout(TASK), second.rollout(TASK)
    assert np.array_equal(a.codes, b.codes) and np.array_equal(a.log_probs, b.log_probs)
    assert np.array_equal(a.clips.log_mel, b.clips.log_mel)  # type: ignore[arg-type]


def test_only_what_the_scorers_read_is_decoded(world: Path) -> None:
    publication = Publisher(world).publish(version=0)
    for views in ((), ("log_mel",), ("pcm", "codes")):
        generator = generator_of(world, *views)
        generator.activate(publication)
        clips = generator.rollout(TASK).clips
        assert {view for view in ("log_mel", "pcm", "codes") if getattr(clips, view) is not None} == set(views)
    assert clips.pcm.shape[:2] == (2, 1) and clips.codes.shape[0] == 2  # type: ignore[union-attr]
    assert clips.prompts == TASK.prompts


def test_the_codec_hears_acoustic_streams_only(world: Path) -> None:
    generator = generator_of(world, "log_mel")
    generator.activate(Publisher(world).publish(version=0))
    rollout, clips = generator.rollout_apart(TASK)
    assert rollout.clips.log_mel is None
    acoustic = [k for k, stream in enumerate(generator._policy.streams) if stream.kind == "acoustic"]
    codes = torch.from_numpy(rollout.codes[:, acoustic].astype(np.int64))
    with torch.inference_mode():
        expected = generator._codec.decode_log_mel(codes).numpy()
    np.testing.assert_array_equal(clips.log_mel, expected)


def test_weights_of_another_incarnation_or_the_past_are_refused(world: Path) -> None:
    learner, generator = Publisher(world), generator_of(world)
    old = learner.publish(version=1)
    learner.train(seed=2)
    generator.activate(learner.publish(version=2))
    with pytest.raises(RunFailed, match="version 1, already at 2"):
        generator.activate(old)
    with pytest.raises(RunFailed, match="epoch run-0, allowed run-a"):
        generator.activate(replace(old, epoch="run-0"))
    assert generator.active_version() == 2


def test_a_sync_that_changes_nothing_is_found_out(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, generator = Publisher(world), generator_of(world)
    generator.activate(learner.publish(version=0))
    learner.train(seed=3)
    publication = learner.publish(version=1)
    with monkeypatch.context() as patch:
        patch.setattr(PublishedWeights, "load", lambda self, publication, deadline_s: None)
        with pytest.raises(RunFailed, match="probe gives"):
            generator.activate(publication)
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "refresh", lambda self: None)
        with pytest.raises(RunFailed, match="sampler and policy differ"):
            generator.activate(publication)
    with pytest.raises(RunFailed, match="before any weights"):  # a failed activation leaves nothing to serve
        generator.rollout(TASK)
    assert generator.activate(publication).version == 1


def test_weights_of_another_network_are_refused(world: Path) -> None:
    learner, generator = Publisher(world), generator_of(world)
    weights = {name: tensor.numpy() for name, tensor in learner.policy.state_dict().items()}
    name = next(iter(weights))
    with pytest.raises(RunFailed, match=f"weights: {name} is"):
        generator.activate(WeightBus(EPOCH, InProcess()).publish(weights | {name: np.zeros((1, 1, 1), np.float32)}, 0))
    del weights[name]
    with pytest.raises(RunFailed, match="on one side only"):
        generator.activate(WeightBus(EPOCH, InProcess()).publish(weights, 0))


def test_activation_never_writes_into_the_shared_buckets(world: Path) -> None:
    learner, generator = Publisher(world), generator_of(world)
    publication = learner.publish(version=0)
    generator.activate(publication)
    with torch.no_grad():
        for parameter in generator._policy.parameters():
            parameter.zero_()
    assert any(bucket.any() for bucket in publication.ticket.flat)
    assert generator_of(world).activate(publication).checksum == publication.checksum
