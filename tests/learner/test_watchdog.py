"""The watch over a run that stands still: told once, ended later, with the stage, the process and its stacks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.errors import RunFailed
from cluster.ledger import Ledger, current_stage
from cluster.member import CallUnderWay, PoolEvent
from cluster.metrics import MetricsTable
from cluster.stacks import Whereabouts
from configs.schema import Config, PipelineConfig
from learner import watchdog
from learner.activity import Activity
from learner.progress import Progress
from learner.recorder import Recorder
from learner.watchdog import Stall, Watchdog

HERE = Whereabouts(4711, "0123456789abcdef", 3)
CALLS = [
    CallUnderWay("generator", 1, "roll_out", 20.0, HERE),
    CallUnderWay("learner", 0, "step", 10.0, HERE),
    CallUnderWay("scorer", 0, "start", 30.0, None),
]


async def stopped(_: Whereabouts) -> str:
    return "no answer to a signal: stopped"


def watch(activity: Activity, told: list[Stall], calls: list[CallUnderWay], warn_s: float = 0.1) -> Watchdog:
    settings = PipelineConfig(stall_s=0.4, stall_warn_s=warn_s)
    return Watchdog(activity, lambda: calls, settings, told.append, stopped)


def test_a_stall_is_told_then_ends_the_run_naming_stage_and_process() -> None:
    told: list[Stall] = []
    activity = Activity(Ledger(), beside=False)

    async def stand_still() -> None:
        with activity.stage("learn"):
            await watch(activity, told, CALLS).watch()

    with pytest.raises(RunFailed) as caught:
        asyncio.run(stand_still())
    assert len(told) == 2 and told[0].stages == {"learn": 1}
    assert [call.role for call in told[0].calls] == ["learner", "generator", "scorer"]  # who was asked first
    assert told[0].stacks[-1] == "it has never answered"
    assert str(caught.value) == (
        "no progress for 0.4 s (pipeline.stall_s) in: learn (1); waits for learner 0 step, pid 4711 on node 01234567"
        " (no answer to a signal: stopped)"
    )
    assert "  generator 1 roll_out, pid 4711 on node 01234567:\n    no answer" in told[1].report


def test_without_any_call_the_drivers_own_stacks_are_told() -> None:
    told: list[Stall] = []
    with pytest.raises(RunFailed, match=r"in: wait \(1\); no actor has been asked"):
        asyncio.run(watch(Activity(Ledger(), beside=True), told, []).watch())
    assert "test_without_any_call" in told[0].report


def test_whatever_gets_done_puts_the_end_off() -> None:
    told: list[Stall] = []
    activity = Activity(Ledger(), beside=False)

    async def get_on() -> None:
        watching = asyncio.create_task(watch(activity, told, [], warn_s=0.3).watch())
        for _ in range(40):
            with activity.producing("score"):
                await asyncio.sleep(0.02)
        watching.cancel()

    asyncio.run(get_on())
    assert told == []


def test_work_with_a_deadline_of_its_own_is_no_stall_and_the_time_counts_anew_after_it() -> None:
    now = [0.0]
    activity = Activity(Ledger(), beside=False, clock=lambda: now[0])

    async def upload() -> None:
        now[0] += 1000.0
        assert activity.idle_s == 0.0

    asyncio.run(activity.patiently(upload()))
    assert activity.idle_s == 0.0
    now[0] += 5.0
    assert activity.idle_s == 5.0


def test_time_in_which_the_whole_process_was_stopped_is_nobodys_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    activity = Activity(Ledger(), beside=False, clock=lambda: now[0])
    naps = iter([0.1, 3600.0, 0.1])

    async def sleep(_: float) -> float:
        seconds = next(naps, None)
        if seconds is None:
            raise asyncio.CancelledError
        now[0] += seconds
        return seconds

    monkeypatch.setattr(watchdog, "_sleep", sleep)
    told: list[Stall] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch(activity, told, CALLS, warn_s=0.35).watch())
    assert told == [] and activity.idle_s < 0.4


def test_the_stage_of_a_task_is_its_own() -> None:
    activity = Activity(Ledger(), beside=True)

    async def one(stage: str) -> str:
        with activity.producing(stage):
            await asyncio.sleep(0.01)
            return current_stage()

    async def both() -> list[str]:
        return list(await asyncio.gather(one("sample"), one("score")))

    assert asyncio.run(both()) == ["sample", "score"]


def test_stalls_are_counted_by_stage_kept_with_their_stacks_and_counted_on_after_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stall = Stall(61.0, {"learn": 1}, tuple(CALLS[1:2]), ("File x.py, line 1 in step\nFile y.py, line 2 in run",))
    late = PoolEvent("generator", 1, "timeout", "deadline passed", "roll_out", "sample", "File z.py, line 3 in draw")
    recorder = Recorder(Config(), tmp_path, Progress(9, "lines"), measure_memory=False)
    recorder.stall(stall)
    recorder.event(late)
    recorder.row({"learner_step": 1})
    recorder.event(late)
    recorder.row({"learner_step": 2})
    recorder.close()

    out, kept = capsys.readouterr().out, (tmp_path / "stalls.log").read_text()
    assert "generator 1 missed its deadline in roll_out (stage sample): replaced" in out
    assert "no progress for 61 s in: learn (1); waits for learner 0 step, pid 4711" in out
    for text in ("line 1 in step", "line 3 in draw"):
        assert text in kept
    assert "line 1 in step" in out

    again = Recorder(Config(), tmp_path, Progress(9, "lines"), measure_memory=False)
    again.begin_at(1)
    again.event(late)
    again.row({"learner_step": 2})
    again.close()
    counts = [(row["stalls_learn"], row["stalls_sample"], row["stalls_score"]) for row in MetricsTable(tmp_path).rows()]
    assert counts == [(1, 1, 0), (1, 2, 0)]


def test_a_disk_that_refuses_does_not_silence_the_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(Config(), tmp_path, Progress(9, "lines"), measure_memory=False)
    (tmp_path / "stalls.log").symlink_to("/dev/full")
    recorder.stall(Stall(61.0, {"insert": 1}, (), ("nothing",)))
    assert "no progress for 61 s in: insert (1)" in capsys.readouterr().out
    recorder.close()
