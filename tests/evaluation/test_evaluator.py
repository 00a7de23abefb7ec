"""The evaluator as the run uses it: a Ray actor that is handed a publication."""

import os
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported; unset, it would leave a token file
import numpy as np
import pytest
import ray

from actors.evaluator import Evaluator
from cluster.weight_bus import WeightBus
from cluster.weight_transports import ObjectStore
from codec.audio import read_audio
from configs.schema import CodecConfig, Config, EvaluationConfig, PolicyConfig, RewardConfig
from evaluation.sample_folder import read_samples, sample_steps
from evaluation.score_rows import score_matrix
from tests.evaluation.tiny_parts import PROMPTS, tiny_policy, write_parts


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


def config(directory: Path) -> Config:
    policy, codec = write_parts(directory)
    return Config(
        policy=PolicyConfig(str(policy), str(policy)),
        codec=CodecConfig(str(codec)),
        rewards={"level": RewardConfig(weight=1.0, target="tests.evaluation.tiny_parts:Level")},
        evaluation=EvaluationConfig(prompts=6, seconds=0.4, batch_size=4, samples=2, judges=""),
    )


def weights(seed: int) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in tiny_policy(seed).named_parameters()}


def test_it_evaluates_the_published_weights_and_a_repeat_is_the_same(cluster, tmp_path):
    evaluator = ray.remote(Evaluator).remote(config(tmp_path), PROMPTS, "epoch-1", 1)
    bus = WeightBus("epoch-1", ObjectStore())
    run = tmp_path / "run"
    run.mkdir()

    def evaluate(publication, step):
        return ray.get(evaluator.evaluate.remote(publication, step, str(run)), timeout=240)

    own = bus.publish(weights(0), 0)
    first = evaluate(own, 0)
    assert set(first.means) == {"reward", "level"} and first.epoch == "epoch-1" and "level" in first.in_reward
    assert score_matrix(first.rows, 0, "level").shape == (6, 1)
    other = evaluate(bus.publish(weights(1), 1), 50)
    assert not np.allclose(score_matrix(other.rows, 50, "level"), score_matrix(first.rows, 0, "level"))
    again = evaluate(own, 0)
    assert again.rows.equals(first.rows)

    assert sample_steps(run) == [0, 50]
    clips = read_samples(run, 0)
    assert [clip.prompt for clip in clips] == list(PROMPTS[:2])
    assert [clip.seed for clip in clips] == [clip.seed for clip in read_samples(run, 50)]
    pcm, rate_hz = read_audio(clips[0].path)
    assert pcm.shape == (1, 6400) and rate_hz == 16_000
    assert clips[0].scores["level"] == pytest.approx(score_matrix(first.rows, 0, "level")[0, 0])
