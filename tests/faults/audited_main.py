"""`python -m tests.faults.audited_main JOURNAL key=value …`: learner.main, which notes what the replay store tells it.

The journal is what the run was promised: each insert and commit that was acknowledged, each recovery that took some of
them back. It is written outside the run folder, in the process that got the answer, before that process goes on.

JOURNAL.gate, where it is there, holds the last step that may be taken: a schedule decides how far a run gets, and
not the machine's speed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.supervision import ActorPool
from learner.main import main

LOOK_S = 0.02


def note_answers(journal: int, gate: Path) -> None:
    """Every answer of the replay store goes to the file descriptor `journal`, one line each, before it is used.

    Rows for a step are asked for once the gate lets it through.
    """
    call, tasks = ActorPool.call, {}  # tasks: reference to a rollout -> its number

    async def noted(self: ActorPool, method: str, *args: Any, **settings: Any) -> Any:
        if (self.name, method) == ("replay", "sample"):
            while last_step(gate) < args[2] + 1:
                await asyncio.sleep(LOOK_S)
        answer = await call(self, method, *args, **settings)
        if method == "roll_out":
            tasks[answer[1].hex()] = args[0].task_id
        if self.name == "replay" and (record := _record(method, args, answer, tasks)):
            os.write(journal, json.dumps(record).encode() + b"\n")
        return answer

    ActorPool.call = noted  # type: ignore[method-assign]


def last_step(gate: Path) -> float:
    """That may be taken."""
    return int(gate.read_text()) if gate.exists() else float("inf")


def _record(method: str, args: tuple[Any, ...], answer: Any, tasks: dict[str, int]) -> dict[str, Any] | None:
    match method:
        case "insert_rollout" if not answer.refused_reason:
            rows = {"new": answer.accepted_rows, "trainable": answer.trainable_rows}
            return {"kind": "insert", "task": tasks.pop(args[0].hex()), "version": answer.policy_version, **rows}
        case "commit":
            return {"kind": "commit", "rows": [int(row) for row in args[0]], "step": int(args[1])}
        case "recover":
            return {"kind": "recover", "version": int(args[0])}
        case "drop":
            return {"kind": "drop", "tasks": [int(task) for task in args[0]]}
    return None


if __name__ == "__main__":
    path = Path(sys.argv[1])
    note_answers(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), path.with_suffix(".gate"))
    sys.exit(main(sys.argv[2:]))
