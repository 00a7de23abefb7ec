"""The estimate of what a run on a MusicGen needs: known sizes, what saves memory, machines that are too small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import UserError
from codec.musicgen_shapes import MusicGenShapes
from configs.schema import Config
from learner.memory import MemoryNeed, check_memory, machine_bytes, memory_need

SMALL = MusicGenShapes(width=1024, layers=24, heads=16, hidden=4096, codebooks=4, entries=2048, text_width=768)
LARGE = replace(SMALL, width=2048, layers=48, heads=32, hidden=8192)


def need(shapes: MusicGenShapes = SMALL, **learner: Any) -> MemoryNeed:
    config = Config()
    config.learner = replace(config.learner, **{"micro_batch_size": 2, **learner})
    config.actors.rollout_size = config.evaluation.batch_size = 4
    return memory_need(config, shapes)


def test_parameters_of_the_released_sizes() -> None:
    assert SMALL.parameters == pytest.approx(420.4e6, rel=1e-3)  # 419.6 M and the projection of the text
    assert LARGE.parameters == pytest.approx(3.24e9, rel=0.01)


def test_full_training_holds_ten_models_and_adapters_a_fraction() -> None:
    """Policy, anchor, value network, and for two of them gradient and moments: 9 models, and activations."""
    model = SMALL.parameters * 4
    full, alone, adapted = need(), need(baseline="batch_mean"), need(lora_rank=16)
    assert need(value_trunk="policy") == alone and need(value_trunk="policy", lora_rank=16).learner < adapted.learner
    assert 8.5 * model < full.learner < 10.5 * model
    assert 4.5 * model < alone.learner < 7 * model
    assert 2 * model < adapted.learner < 4 * model
    assert full.weights == 2 * model and full.generators > model


def test_longer_clips_and_guidance_need_more() -> None:
    plain, longer, guided = Config(), Config(), Config()
    longer.sampling.seconds, guided.sampling.guidance_scale = 8.0, 3.0
    first, second, third = (memory_need(config, SMALL) for config in (plain, longer, guided))
    assert first.learner < third.learner < second.learner and first.generators < third.generators


def test_a_machine_that_is_too_small_is_told_before_anything_starts() -> None:
    assert "of 900.0 GB" in check_memory(need(LARGE), 900 * 10**9)
    with pytest.raises(UserError, match=r"memory: about \d\d\d.\d GB .* of 64.0 GB on this machine; lower"):
        check_memory(need(LARGE), 64 * 10**9)
    assert machine_bytes() > 10**8


def test_states_are_what_long_clips_add_and_what_saves_them() -> None:
    """Of 30 s of a micro-batch of one: 24 layers of 22 states of 1503 places, never the logits of all cells."""
    long, short = Config(), Config()
    long.sampling.seconds, short.sampling.seconds = 30.0, 15.0

    def added(**learner: Any) -> int:
        needs = []
        for config in (long, short):
            config.learner = replace(Config().learner, micro_batch_size=1, **learner)
            needs.append(memory_need(config, SMALL).learner)
        return needs[0] - needs[1]

    kept = 750 * 1024 * 24 * 22 * 4
    assert added() == kept
    assert added(activation_checkpointing=True) == kept * (24 + 22) // (24 * 22)
    assert added(precision="bfloat16") == kept // 2
    assert need(precision="bfloat16").learner > need().learner  # a whole copy to publish weighs more than short states


def test_short_moments_are_counted() -> None:
    """Of 420,371,456 numbers two moments of 4 bytes, or of 1 + 4/256 and, on a CPU, what an update takes beside."""

    def saved(**learner: Any) -> int:
        before, after = (need(optimizer_states=states, **learner).learner for states in ("float32", "8bit"))
        return before - after

    assert SMALL.parameters == 420_371_456
    assert saved(baseline="batch_mean", gpus=1) == 2_509_092_128
    assert saved(baseline="batch_mean") == 2_509_092_128 - 22 * 8192 * 1024
    assert saved(gpus=1) == 4_968_114_752  # of the value network, too, which has no heads
    assert need(optimizer_states="8bit").generators == need().generators
