"""A generator with a MusicGen in 16 bits hands on that sampler's own log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.generator import Generator
from actors.records import RolloutTask
from cluster.weight_bus import WeightBus
from cluster.weight_transports import InProcess
from policy.checkpoint import load_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.packed import PRECISIONS, Precision
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of

EPOCH = "run-a"
TASK = RolloutTask(3, ("slow piano", "slow piano"), (11, 12), 6, SamplingSettings(0.9, 2.0))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_log_probabilities_are_the_samplers(precision: Precision, tmp_path: Path) -> None:
    folder = write_random(tmp_path / "musicgen", RandomShapes())
    generator = Generator(str(folder), str(folder), ("codes",), EPOCH, 1, precision)
    policy = load_policy(folder)
    with torch.no_grad():
        policy.heads.weight *= 1.5
    weights = {name: tensor.numpy() for name, tensor in policy.state_dict().items()}
    publication = WeightBus(EPOCH, InProcess()).publish(weights, 1, None)
    assert generator.activate(publication).version == 1
    rollout = generator.rollout(replace(TASK, task_id=4))
    text = policy.encode_text(TASK.prompts)
    codes, log_probs = sampler_of(policy, precision).sample(text, TASK.seeds, TASK.frames, TASK.sampling)
    assert np.array_equal(rollout.codes, codes.numpy()) and np.array_equal(rollout.log_probs, log_probs.numpy())
    with torch.no_grad():
        taught = gather(log_distribution(policy, codes, text, TASK.sampling), codes)
    gap = float((taught - log_probs).abs().mean())
    assert gap < 1e-5 if precision == "float32" else 1e-4 < gap < 0.1
