"""Votes and loops without models, for tests of the loop's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback.loop_settings import LoopSettings
from feedback.loop_state import START, LoopState, stage_name
from rewards.preference_pairs import SCHEMA

FIRST, SECOND, THIRD = "1" * 12, "2" * 12, "3" * 12  # versions of policies


def votes(rows: Sequence[tuple[str, str, str, str]], begin: int = 0) -> pa.Table:
    """(prompt, policy_a, policy_b, choice) of each vote."""
    made: list[dict[str, Any]] = [
        {
            "vote_id": f"vote-{begin + number:05d}",
            "prompt": prompt,
            "codes_a": [[1, 2], [3, 4]],
            "codes_b": [[1, 2], [3, 5]],
            "choice": choice,
            "listener": f"listener-{number % 7}",
            "listener_kind": "person",
            "group": "",
            "policy_a": policy_a,
            "policy_b": policy_b,
            "seed_a": 1,
            "seed_b": 2,
            "heard_a_s": 1.0,
            "heard_b_s": 1.0,
            "seconds": 1.0,
            "voted_at": datetime(2026, 3, 1, tzinfo=UTC),
        }
        for number, (prompt, policy_a, policy_b, choice) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def begun(folder: Path, **settings: Any) -> LoopState:
    """A loop whose start is finished: base FIRST, first policy SECOND, preference model "p0"."""
    state = LoopState(LoopSettings(**{"work": str(folder), **settings}))
    state.ledger.stage(START, lambda: {"base": FIRST, "policy": SECOND, "preference": "p0"})
    return state


def finish(state: LoopState, number: int, stage: str, **facts: Any) -> None:
    """Notes a stage as finished."""
    state.ledger.stage(stage_name(number, stage), lambda: facts)
