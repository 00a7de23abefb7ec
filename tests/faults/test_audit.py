"""The audit finds what is missing: rows and commits that a store promised and then forgot, and rows trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.replay import ReplayStore
from tests.actors.rollouts import EPOCH, scored
from tests.faults.audit import audit

ROWS = 4  # of a task


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four tasks, the first two trained; a recovery to version 1 takes back the last, which is then made again."""
    store, journal = ReplayStore(tmp_path / "replay", EPOCH), tmp_path / "journal.jsonl"

    def insert(task: int, version: int) -> None:
        receipt = store.insert(scored(task, version))
        note(journal, kind="insert", task=task, version=version, new=receipt.accepted_rows, trainable=ROWS)

    def commit(step: int) -> None:
        batch = store.sample(rows=ROWS)
        assert batch is not None
        store.commit(batch.row_ids, step)
        note(journal, kind="commit", rows=batch.row_ids.tolist(), step=step)

    insert(0, 0)
    commit(1)
    insert(1, 1)
    commit(2)
    insert(2, 2)
    store.recover(1)
    note(journal, kind="recover", version=1)
    commit(2)  # the second task again: its first time was taken back
    insert(2, 2)
    insert(3, 2)
    return tmp_path


def note(journal: Path, **record: Any) -> None:
    with journal.open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_a_history_with_a_recovery_is_whole(run: Path) -> None:
    found = audit(run / "journal.jsonl", run / "replay")
    assert (found.acknowledged, found.trained) == (4 * ROWS, 2 * ROWS)
    assert (found.lost, found.twice) == ((), ())


def test_rows_that_are_gone_from_the_disk_are_lost(run: Path) -> None:
    (segment,) = (run / "replay").glob("segment_*")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size - 100)
    assert len(audit(run / "journal.jsonl", run / "replay").lost) == ROWS


def test_a_commit_that_the_store_forgot_is_a_loss(run: Path) -> None:
    log = run / "replay" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    assert len(audit(run / "journal.jsonl", run / "replay").lost) == ROWS


def test_rows_of_two_steps_are_trained_twice(run: Path) -> None:
    note(run / "journal.jsonl", kind="commit", rows=[0, 1], step=3)
    assert audit(run / "journal.jsonl", run / "replay").twice == (0, 1)


def test_a_torn_line_of_a_killed_process_is_passed_over(run: Path) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"kind": "comm')
    assert audit(run / "journal.jsonl", run / "replay").lost == ()
