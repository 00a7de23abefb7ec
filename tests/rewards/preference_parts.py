"""A small world with a planted utility: clips are random codes, simulated listeners follow a rule."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from policy.checkpoint import save_policy
from rewards.preference_pairs import SCHEMA, write_pairs
from rewards.preference_settings import PreferenceSettings
from tests.policy.policy_parts import small_policy

FRAMES, SIZES = 12, (16, 16, 16)
WORDS = ("slow", "fast", "piano", "flute", "drums")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def make_policy(folder: Path) -> Path:
    save_policy(small_policy(SIZES), folder)
    return folder


def draw_clips(rng: np.random.Generator, count: int, frames: int = FRAMES) -> np.ndarray:
    """[count, K, T]: each clip has a leaning of its own to low or high codes of stream 1."""
    leaning = rng.random((count, 1))
    codes = rng.integers(0, 16, (count, len(SIZES), frames))
    low = rng.random((count, frames)) < leaning
    codes[:, 1] = np.where(low, rng.integers(0, 8, low.shape), rng.integers(8, 16, low.shape))
    return codes


def utility(codes: np.ndarray) -> np.ndarray:
    """[P, K, T] -> [P]: share of low codes in stream 1, about between -2 and 2."""
    return 4 * (codes[:, 1] < 8).mean(1) - 2


def votes(
    count: int = 400,
    seed: int = 0,
    side: float = 0.0,
    tie_below: float = 0.0,
    listeners: int = 8,
    taste: float = 2.0,
    group: str = "",
    shuffled: bool = False,
) -> pa.Table:
    """A table of votes by simulated listeners: logistic noise on taste * utility + side, ties where it is even."""
    rng = np.random.default_rng(seed)
    a, b = draw_clips(rng, count), draw_clips(rng, count)
    felt = taste * (utility(a) - utility(b)) + side + rng.logistic(size=count)
    choices = np.where(np.abs(felt) < tie_below, "tie", np.where(felt > 0, "a", "b"))
    if shuffled:
        choices = rng.permutation(choices)
    return table(a, b, choices, rng, listeners, group, f"v{seed}")


def table(
    a: np.ndarray, b: np.ndarray, choices: np.ndarray, rng: np.random.Generator, listeners: int, group: str, name: str
) -> pa.Table:
    count = len(choices)
    columns = {
        "vote_id": [f"{name}-{group}-{i}" for i in range(count)],
        "prompt": [f"{' '.join(rng.choice(WORDS, 2))} {i % 97}" for i in range(count)],
        "codes_a": a.tolist(),
        "codes_b": b.tolist(),
        "choice": choices.tolist(),
        "listener": [f"{group}{i % listeners}" for i in range(count)],
        "listener_kind": ["simulated"] * count,
        "group": [group] * count,
        "policy_a": ["p"] * count,
        "policy_b": [["p", "q"][i % 2] for i in range(count)],
        "seed_a": list(range(count)),
        "seed_b": list(range(count)),
        "heard_a_s": [4.0] * count,
        "heard_b_s": [4.0] * count,
        "seconds": [4.0] * count,
        "voted_at": [NOW] * count,
    }
    return pa.table(columns, schema=SCHEMA)


def replaced(values_table: pa.Table, name: str, values: list) -> pa.Table:
    """The table with another column `name`."""
    field = SCHEMA.field(name)
    return values_table.set_column(values_table.column_names.index(name), field, pa.array(values, field.type))


def settings_of(folder: Path, votes_table: pa.Table, **changes: object) -> PreferenceSettings:
    """Settings of a quick training in this process, on a policy and a file of votes in `folder`."""
    policy = folder / "policy"
    if not policy.exists():
        make_policy(policy)
    path = folder / f"votes{len(list(folder.glob('votes*')))}.parquet"
    write_pairs(path, votes_table)
    defaults: dict[str, object] = {
        "pairs": str(path),
        "policy": str(policy),
        "out": str(folder / "model"),
        "registry": "none",
        "workers": 0,
        "hidden": 16,
        "steps": 60,
        "eval_every": 20,
        "checkpoint_every": 20,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "held_out": 0.3,
        "valid": 0.1,
    }
    return PreferenceSettings(**{**defaults, **changes})  # type: ignore[arg-type]
