"""The thread beside the loop: silent while it turns, and the end of the process when it does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from cluster.heartbeat import Heartbeat


def test_a_loop_that_turns_is_left_alone() -> None:
    ended: list[int] = []

    async def turn(heart: Heartbeat) -> None:
        keeping = asyncio.create_task(heart.keep("its own loop"))
        await asyncio.sleep(0.6)
        keeping.cancel()

    with Heartbeat(0.3, end=ended.append) as heart:
        asyncio.run(turn(heart))
    assert ended == []


def test_before_the_first_beat_nothing_is_late() -> None:
    ended: list[int] = []
    with Heartbeat(0.1, end=ended.append):
        time.sleep(0.4)
    assert ended == []


def test_a_loop_that_stands_still_is_ended_with_its_stack_and_the_way_back(capfd: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()

    def hold_the_loop() -> None:
        assert ended.wait(30)

    async def stand(heart: Heartbeat) -> None:
        heart.hint = "go on with: that"
        keeping = asyncio.create_task(heart.keep("its own loop"))
        await asyncio.sleep(0)
        hold_the_loop()
        keeping.cancel()

    statuses: list[int] = []
    with Heartbeat(0.3, end=lambda status: (statuses.append(status), ended.set())) as heart:
        asyncio.run(stand(heart))
    said = capfd.readouterr().err
    assert statuses == [1] and "in hold_the_loop" in said
    assert said.rstrip().splitlines()[-1] == (
        "error: no progress for 0.3 s (pipeline.stall_s) in the driver itself: its own loop; go on with: that"
    )
