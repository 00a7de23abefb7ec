"""Short trainings that two ranks of torch.distributed and one process alone go through alike.

python -m tests.learner.rank_scenarios RANK SIZE PORT FOLDER      all of them; results go to FOLDER
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from learner import measures
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner
from learner.meeting import Place
from learner.ranks import Ranks
from learner.sharding import DistributedRanks, join
from policy.checkpoint import load_policy
from policy.lora import merge_into
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from tests.learner.tiny_learner import GUIDED, SETTINGS, batch, config, tiny_policy

STEPS = 5
SAVED_AT = 3
WIDE = {"alpha": 0.3, "freeze": ["trunk.embed*"], "micro_batch_size": 3, "lr_schedule": "linear", "grad_clip": 0.5}
ONE_TRUNK = {"value_trunk": "policy", "value_gradient": 2.0, "value_learning_rate": 0.1}


def musicgen(seed: int, width: int = 16, layers: int = 2, kind: str = "musicgen") -> Any:
    """Of the true architecture, small, with random weights."""
    return load_policy(_written(seed, width, layers, kind).name)


@cache
def _written(seed: int, width: int, layers: int, kind: str) -> tempfile.TemporaryDirectory[str]:
    """As long as the process: a MusicGen that is saved takes text encoder and codec from where it was loaded."""
    folder = tempfile.TemporaryDirectory()
    shapes = RandomShapes(width=width, layers=layers, entries=16, seed=seed, kind=kind, chroma_places=5)
    write_random(folder.name, shapes)
    return folder


def wide_musicgen(seed: int) -> Any:
    """Whose rows are whole blocks of learner.eight_bit_adam."""
    return musicgen(seed, width=256, layers=1)


def melody(seed: int) -> Any:
    return musicgen(seed, kind="melody")


@dataclass(frozen=True)
class Scenario:
    """rows: of each step's batch, in turn. policy: of a seed."""

    changes: dict[str, Any]
    rows: tuple[int, ...] = (8,)
    sampling: SamplingSettings = SETTINGS
    steps: int = STEPS
    close: float = 1e-5
    policy: Callable[[int], Any] = tiny_policy
    same: dict[str, Any] = field(default_factory=dict)  # what the process that is alone is configured with, too


SCENARIOS = {
    "data": Scenario({"parallel": "data"}, sampling=GUIDED),
    "sharded": Scenario({"parallel": "sharded"}, sampling=GUIDED),
    "data, odd batches": Scenario({"parallel": "data"}, rows=(7, 8, 1), same={"baseline": "leave_one_out"}),
    "sharded, odd batches": Scenario(
        {"parallel": "sharded", "activation_checkpointing": True}, rows=(7, 8, 1), same={"value_warmup_steps": 2}
    ),
    "musicgen": Scenario({"parallel": "sharded", "activation_checkpointing": True}, steps=2, policy=musicgen),
    "melody": Scenario({"parallel": "sharded"}, (8,), GUIDED, 2, policy=melody),
    "adapters": Scenario(
        {"parallel": "sharded"}, (8,), GUIDED, 2, policy=musicgen, same={"lora_rank": 2, "learning_rate": 0.01}
    ),
    "data, one trunk": Scenario({"parallel": "data"}, rows=(7, 8, 1), sampling=GUIDED, same=ONE_TRUNK),
    "sharded, one trunk": Scenario({"parallel": "sharded"}, rows=(1, 8), steps=3, policy=musicgen, same=ONE_TRUNK),
    "bfloat16": Scenario({"parallel": "sharded", "precision": "bfloat16"}, close=0.02, same={"micro_batch_size": 8}),
}
SHORT = "8bit"
if find_spec("bitsandbytes") is not None:  # an extra
    SCENARIOS[SHORT] = Scenario(
        {"parallel": "sharded"},
        steps=4,
        close=2e-4,
        policy=wide_musicgen,
        same={"optimizer_states": "8bit", "micro_batch_size": 8},
    )


def made(name: str, ranks: Ranks | None) -> Learner:
    """A learner of the scenario; ranks None: alone, without what is said of ranks."""
    scenario = SCENARIOS[name]
    settings = config(**{**WIDE, **scenario.same, **(scenario.changes if ranks is not None else {})})
    policy, reference = scenario.policy(0), scenario.policy(2)
    return Learner(policy, reference, settings, scenario.sampling, total_steps=STEPS, ranks=ranks)


def train(name: str, learner: Learner, until: int) -> list[dict[str, float]]:
    """Steps up to version `until` -> their metrics. Batches depend on the version alone."""
    scenario, metrics = SCENARIOS[name], []
    behaviour = scenario.policy(1)
    while learner.version < until:
        version = learner.version
        rows = scenario.rows[version % len(scenario.rows)]
        metrics.append(learner.step(batch(behaviour, rows, scenario.sampling, seed=version)))
    return metrics


def main(rank: int, size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    join(config(), Place(rank, size, port), start_s=60.0)
    measures.PART_NUMBERS = (
        200  # so that clips are measured in several parts, where the process that is alone makes one
    )
    for name, scenario in SCENARIOS.items():
        _one(name, made(name, DistributedRanks(config(**scenario.changes))), folder)
    resumed = made("sharded", DistributedRanks(config(parallel="sharded")))
    load_checkpoint(folder / "alone" / "checkpoints" / f"step_{SAVED_AT}", resumed)
    train("sharded", resumed, STEPS)
    _keep("resumed", resumed, [], folder)
    if SHORT in SCENARIOS:
        _again(SHORT, folder)


def _again(name: str, folder: Path) -> None:
    """Saves at once what was resumed from the checkpoint of one process."""
    resumed = made(name, DistributedRanks(config(**SCENARIOS[name].changes)))
    load_checkpoint(folder / f"alone {name}" / "checkpoints" / f"step_{SAVED_AT}", resumed)
    save_checkpoint(folder / f"again {name}", SAVED_AT, resumed, {}, {})


def _one(name: str, learner: Learner, folder: Path) -> None:
    scenario, metrics = SCENARIOS[name], []
    if scenario.steps > SAVED_AT:
        metrics = train(name, learner, SAVED_AT)
        save_checkpoint(folder / name, SAVED_AT, learner, {"by": name}, {})
    metrics += train(name, learner, scenario.steps)
    _keep(name, learner, metrics, folder)


def _keep(name: str, learner: Learner, metrics: list[dict[str, float]], folder: Path) -> None:
    weights = {key: torch.from_numpy(array) for key, array in learner.weights().items()}
    if learner.config.lora_rank:  # the same, in two parts as they are published
        parts = [
            {k: torch.from_numpy(a.copy()) for k, a in of().items()}
            for of in (learner.frozen_weights, learner.adapters)
        ]
        if learner.ranks.leads:
            merge_into(*parts)
            assert all(torch.equal(parts[0][key], tensor) for key, tensor in weights.items())
    if learner.ranks.leads:
        save_file(weights, folder / f"{name}.safetensors")
    (folder / f"{name} {learner.ranks.rank}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
