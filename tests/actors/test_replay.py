"""What the replay store promises, one promise a test. All orders at once: test_replay_machine.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from actors.replay import ReplayStore
from actors.replay_index import StoredTask, Totals
from actors.replay_log import LOG, read_log
from actors.replay_table import read_rows
from cluster.errors import RunFailed
from policy.port import SamplingSettings
from tests.actors.rollouts import EPOCH, as_rollout, scored

ROOT = Path(__file__).parents[2]


def filled(directory: Path, tasks: int = 3, **options: int) -> ReplayStore:
    store = ReplayStore(directory, EPOCH, **options)
    for task in range(tasks):
        store.insert(scored(task, version=task))
    return store


def test_a_batch_is_what_was_inserted(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH)
    first, second = scored(7, version=2), scored(3, version=2)
    store.insert(first)
    store.insert(second)
    batch = store.sample(learner_version=2)
    assert batch is not None
    assert batch.task_ids.tolist() == [3] * 4 + [7] * 4  # by task, whatever came first
    assert batch.prompts == second.task.prompts + first.task.prompts
    assert np.array_equal(batch.codes, np.concatenate([second.codes, first.codes]))
    assert batch.codes.dtype == np.uint16 and batch.codes.shape == (8, 3, 6)
    assert np.array_equal(batch.log_probs, np.concatenate([second.log_probs, first.log_probs]))
    assert np.array_equal(batch.rewards, np.concatenate([second.reward, first.reward]))
    assert np.array_equal(batch.scores["quality"], batch.rewards)
    assert batch.policy_versions.tolist() == [2] * 8
    assert batch.sampling == SamplingSettings(0.9, 1.5)


def test_the_oldest_weights_are_sampled_first(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH)
    for task, version in ((0, 5), (1, 4), (2, 5)):  # task 0 was sampled again with newer weights
        store.insert(scored(task, version))
    batch = store.sample(rows=6)
    assert batch is not None and batch.task_ids.tolist() == [0, 0, 1, 1, 1, 1]


def test_too_few_rows_are_no_batch(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=2)
    assert store.sample(rows=9) is None
    assert store.sample(task_ids=[0, 5]) is None
    assert ReplayStore(tmp_path / "empty", EPOCH).sample() is None


def test_a_row_without_reward_is_kept_and_never_sampled(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH)
    receipt = store.insert(scored(0, missing=(1, 2)))
    assert (receipt.accepted_rows, receipt.trainable_rows) == (4, 2)
    batch = store.sample()
    assert batch is not None and batch.row_ids.tolist() == [0, 3]
    assert store.stats()["rows_untrainable"] == 2
    assert read_rows(tmp_path).column("status_quality").to_pylist() == ["ok", "error", "error", "ok"]


def test_a_row_with_unusable_log_probabilities_is_never_sampled(tmp_path: Path) -> None:
    item = scored(0)
    item.log_probs[2, 1, 3] = -np.inf
    store = ReplayStore(tmp_path, EPOCH)
    assert store.insert(item).trainable_rows == 3
    batch = store.sample()
    assert batch is not None and batch.row_ids.tolist() == [0, 1, 3]


def test_tasks_without_any_reward_end_the_run(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH)
    store.insert(scored(0, missing=(0, 1, 2, 3)))
    with pytest.raises(RunFailed, match="no row of the 1 tasks of this step has a reward"):
        store.sample(task_ids=[0])


def test_a_second_insert_of_a_task_is_a_duplicate(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=1)
    again = store.insert(scored(0, version=9, missing=(0,)))
    assert again.duplicate and (again.accepted_rows, again.trainable_rows, again.policy_version) == (0, 4, 0)
    assert store.stats()["tasks_duplicate"] == 1
    assert read_rows(tmp_path).num_rows == 4


def test_another_incarnation_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=1)
    receipt = store.insert(scored(5, epoch="run-b"))
    assert receipt.refused_reason == "epoch: got run-b, allowed run-a"
    assert store.stored_tasks() == [0] and store.stats()["tasks_refused"] == 1


def test_an_orphaned_store_can_write_nothing_any_more(tmp_path: Path) -> None:
    orphan = filled(tmp_path, tasks=1)
    store = ReplayStore(tmp_path, EPOCH)
    assert "replaced" in orphan.insert(scored(1)).refused_reason
    for write in (lambda: orphan.commit([0], 1), lambda: orphan.recover(0), lambda: orphan.drop([0], "")):
        with pytest.raises(RunFailed, match="replaced by a newer one"):
            write()
    assert store.insert(scored(1)).accepted_rows == 4


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=1)
    assert store.insert(scored(1, frames=7)).refused_reason == "codes: got [K, T] = [3, 7], allowed [3, 6]"
    with pytest.raises(ValueError, match="log_probs"):
        store.insert(replace(scored(1), log_probs=np.zeros((4, 3, 5), np.float32)))
    with pytest.raises(ValueError, match="reward"):
        store.insert(replace(scored(1), reward=np.zeros(3, np.float32)))


def test_a_committed_row_is_never_sampled_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.commit([0, 1, 65536], 3)
    for opened in (store, ReplayStore(tmp_path, EPOCH)):
        batch = opened.sample()
        assert batch is not None
        assert batch.row_ids.tolist() == [2, 3, 65537, 65538, 65539, 131072, 131073, 131074, 131075]


def test_a_commit_twice_is_one_commit_and_another_step_is_an_error(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.commit([0, 1], 3)
    store.commit([1, 0], 3)  # its reply was lost
    assert len(read_log(tmp_path / LOG)) == 1
    with pytest.raises(ValueError, match=r"rows \[1\] do not wait"):
        store.commit([1, 2], 4)
    with pytest.raises(ValueError, match="do not wait"):
        store.commit([9 * 65536], 4)
    with pytest.raises(ValueError, match="step 2 for rows of version 2"):
        store.commit([2 * 65536], 2)


def test_rows_can_be_trained_more_than_once_on_request(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH, times_sampled=2)
    store.insert(scored(0, rows=1))
    store.commit([0], 1)
    assert store.sample() is not None
    store.commit([0], 2)
    assert store.sample() is None


def test_going_back_drops_later_rows_and_frees_later_commits(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=4)  # versions 0..3
    store.commit([0, 1, 2, 3], 1)
    store.commit([65536, 65537], 3)
    assert store.recover(2) == 4
    reopened = ReplayStore(tmp_path, EPOCH)
    for opened in (store, reopened):
        assert opened.stored_tasks() == [0, 1, 2]
        assert opened.available_tasks() == {1: (4, 1), 2: (4, 2)}
        assert opened.stats()["rows_dropped"] == 4
    reopened.insert(scored(3, version=2))  # the same number, made again
    assert ReplayStore(tmp_path, EPOCH).available_tasks()[3] == (4, 2)
    table = read_rows(tmp_path).to_pydict()
    fate = list(zip(table["task_id"], table["dropped"], table["trained_step"], strict=True))[::4]
    assert fate == [(0, False, 1), (1, False, None), (2, False, None), (3, True, None), (3, False, None)]


def test_given_up_rows_stay_given_up(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.commit([0], 1)
    assert store.drop([0], "too stale") == 3
    assert store.insert(scored(0)).duplicate
    for opened in (store, ReplayStore(tmp_path, EPOCH)):
        assert opened.available_tasks() == {1: (4, 1), 2: (4, 2)}


def test_rows_of_other_settings_are_another_batch(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path, EPOCH)
    store.insert(scored(0, sampling=SamplingSettings(0.9)))
    store.insert(scored(1, sampling=SamplingSettings(1.0)))
    batch = store.sample()
    assert batch is not None and set(batch.task_ids) == {0}


def test_rows_of_the_future_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="rows of version 2 for a learner of version 1"):
        filled(tmp_path).sample(learner_version=1)


def test_segments_roll_over_and_are_plain_arrow(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=5, segment_rows=8)
    names = sorted(path.name for path in tmp_path.glob("segment_*"))
    assert names == ["segment_000000.arrows", "segment_000001.arrows", "segment_000002.arrows"]
    rows = [pa.ipc.open_stream(tmp_path / name).read_all().num_rows for name in names]
    assert rows == [8, 8, 4] and store.stats()["segments"] == 3


def test_trained_segments_make_room(tmp_path: Path) -> None:
    size = filled(tmp_path / "probe", tasks=2, segment_rows=8).bytes_stored()
    store = filled(tmp_path / "store", tasks=4, segment_rows=8, max_bytes=2 * size + 100)
    with pytest.raises(RunFailed, match=r"replay.max_bytes: \d+ are full"):
        store.insert(scored(4))
    store.commit([task * 65536 + row for task in (0, 1) for row in range(4)], 2)
    assert store.reclaim(before_step=1) == 0  # a checkpoint of version 1 could ask for them
    assert store.reclaim(before_step=2) == size
    assert store.insert(scored(0)).duplicate  # done with, not forgotten
    store.insert(scored(4))
    reopened = ReplayStore(tmp_path / "store", EPOCH)
    assert reopened.stored_tasks() == [0, 1, 2, 3, 4]
    with pytest.raises(RunFailed, match="cannot go back to version 1"):
        reopened.recover(1)


def test_the_segment_that_is_written_to_stays(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=2, segment_rows=4, max_bytes=100_000)
    store.commit([task * 65536 + row for task in (0, 1) for row in range(4)], 2)
    store.reclaim(before_step=2)
    assert store.stats()["segments"] == 2  # there is room: rows stay for study
    store = ReplayStore(tmp_path, EPOCH, segment_rows=4, max_bytes=1)
    store.reclaim(before_step=2)
    assert store.stats()["segments"] == 1 and store.stored_tasks() == [0, 1]


def test_torn_ends_are_cut_off_and_never_come_back(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.commit([0], 1)
    store.commit([1], 1)
    log = tmp_path / LOG
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first[:-5] + b"xxxx\n" + second)  # the first one is damaged: nothing after it can be relied on
    store = ReplayStore(tmp_path, EPOCH)
    assert log.read_bytes() == b"" and store.stats()["bytes_cut"] == len(first + second)
    assert store.available_tasks()[0] == (4, 0)
    segment = tmp_path / "segment_000000.arrows"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    assert ReplayStore(tmp_path, EPOCH).stored_tasks() == [0, 1]
    assert segment.read_bytes() == whole[: len(segment.read_bytes())] and len(segment.read_bytes()) < len(whole) - 1


def test_a_recovery_never_concerns_what_comes_after_it(tmp_path: Path) -> None:
    store = filled(tmp_path, tasks=1)
    store.insert(scored(1, version=0))
    store.recover(0)
    path = tmp_path / "segment_000000.arrows"
    content = path.read_bytes().replace(scored(1, version=0).codes.tobytes(), bytes(144))  # the last task is damaged
    path.write_bytes(content)
    ReplayStore(tmp_path, EPOCH).insert(scored(2, version=3))
    assert ReplayStore(tmp_path, EPOCH).stored_tasks() == [0, 2]


def test_a_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    size = filled(tmp_path / "probe", tasks=2, segment_rows=8).bytes_stored()
    store = filled(tmp_path / "store", tasks=4, segment_rows=8, max_bytes=2 * size + 100)
    first = tmp_path / "store" / "segment_000000.arrows"
    content = first.read_bytes()
    store.commit([task * 65536 + row for task in (0, 1) for row in range(4)], 2)
    store.reclaim(2)
    first.write_bytes(content)
    reopened = ReplayStore(tmp_path / "store", EPOCH)
    assert not first.exists() and reopened.stats()["rows_stored"] == 8


def test_a_damaged_task_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "segment_000000.arrows"
    content = bytearray(path.read_bytes())
    codes = scored(1, version=1).codes.tobytes()
    content[content.index(codes)] ^= 1
    path.write_bytes(content)
    store = ReplayStore(tmp_path, EPOCH)
    assert store.stored_tasks() == [0, 2] and store.stats()["tasks_damaged"] == 1


def test_a_full_disk_ends_the_run_and_leaves_the_store_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    write = os.write

    def half(handle: int, content) -> int:
        write(handle, bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(os, "write", half)
    with pytest.raises(RunFailed, match="No space left on device"):
        store.insert(scored(3))
    with pytest.raises(RunFailed, match="No space left on device"):
        store.commit([0], 1)
    monkeypatch.undo()
    assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == sizes
    assert store.insert(scored(3)).accepted_rows == 4
    store.commit([1], 1)
    reopened = ReplayStore(tmp_path, EPOCH)
    assert reopened.stats()["bytes_cut"] == 0 and reopened.stored_tasks() == [0, 1, 2, 3]
    assert reopened.available_tasks()[0] == (3, 0)


def test_a_rollout_goes_in_beside_its_scores(tmp_path: Path) -> None:
    item = scored(0)
    store = ReplayStore(tmp_path, EPOCH)
    receipt = store.insert_rollout(as_rollout(item), item.scores, item.reward)
    assert receipt.accepted_rows == 4 and receipt.seconds == {"sample": 1.0, "score": 0.1}
    batch = store.sample()
    assert batch is not None and np.array_equal(batch.rewards, item.reward)


INSERT_FOR_EVER = """
import sys
sys.path[:0] = {paths!r}
from tests.actors.rollouts import EPOCH, scored
from actors.replay import ReplayStore
store = ReplayStore(sys.argv[1], EPOCH, segment_rows=16)
for task in range(1_000_000):
    store.insert(scored(task))
    print(task, flush=True)
    if task % 3 == 0:
        store.commit(store.sample(task_ids=[task]).row_ids, 1)
        print("trained", task, flush=True)
"""


@pytest.mark.parametrize("after", [1, 10, 45])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    script = INSERT_FOR_EVER.format(paths=[str(ROOT)])
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    stored = {int(line) for line in lines if line[0].isdigit()}
    trained = {int(line.split()[1]) for line in lines if line.startswith("trained")}
    store = ReplayStore(tmp_path, EPOCH)
    assert stored <= set(store.stored_tasks())
    waiting = store.available_tasks()
    assert not trained & waiting.keys()
    assert all(waiting[task][0] == 4 for task in stored - trained if task % 3)


def test_staleness_is_the_learners_version_less_the_rows() -> None:
    totals, task = Totals(), SimpleNamespace(policy_version=3)
    totals.use(cast(StoredTask, task), rows=4, step=4)  # the step that makes version 4 is taken at version 3
    assert (totals.uses, totals.staleness, totals.staleness_max) == (4, 0, 0)
    totals.use(cast(StoredTask, task), rows=2, step=6)
    assert (totals.uses, totals.staleness, totals.staleness_max) == (6, 4, 2)
