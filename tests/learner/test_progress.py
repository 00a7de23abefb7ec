"""What a person sees of a run: lines where there is no terminal, a panel where there is one."""

from __future__ import annotations

import io

import pytest

from learner.progress import Progress
from learner.progress_panel import sparkline
from learner.standing import Standing, duration


class Clock:
    """A clock that goes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def row(step: int, **more: float) -> dict[str, float]:
    return {
        "learner_step": step,
        "reward": 0.5,
        "reward_quality": 3.25,
        "reward_std": 1.0,
        "kl": 0.002,
        "kl_clip": 1.5,
        "sequences": 64,
        "seconds_sample": 1.5,
        "seconds_learn": 0.5,
        "seconds_step": 2.0,
        **more,
    }


def shown(total: int, rows: int, mode: str) -> str:
    stream = io.StringIO()
    with Progress(total, mode, "MusicRL", stream) as progress:
        for step in range(1, rows + 1):
            progress.update(row(step))
    return stream.getvalue()


def test_lines_name_reward_kl_time_and_what_is_left():
    lines = shown(10, 4, "lines").splitlines()
    assert lines[0] == "step 1/10  reward +0.500 (quality 3.25)  KL 1.50 nats/clip"
    assert lines[3] == (
        "step 4/10  reward +0.500 (quality 3.25)  KL 1.50 nats/clip  2.00 s/step (sample 75%, learn 25%)  left 0:12"
    )


def test_where_there_is_no_terminal_auto_means_lines():
    assert shown(10, 2, "auto") == shown(10, 2, "lines")
    assert "\x1b" not in shown(10, 2, "auto")


def test_a_long_run_prints_few_lines_but_the_first_and_the_last():
    lines = shown(6000, 6000, "lines").splitlines()
    assert 60 <= len(lines) <= 62
    assert lines[0].startswith("step 1/") and lines[-1].startswith("step 6000/")


def test_no_silence_is_long():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(6000, "lines", "MusicRL", stream, clock)
    for step in range(1, 5):
        progress.update(row(step))
        clock.now += 20
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/6000", "3/6000"]


def test_messages_are_shown_in_every_mode():
    for mode in ("lines", "panel", "off"):
        stream = io.StringIO()
        with Progress(3, mode, "MusicRL", stream) as progress:
            progress.message("scorer 1 started again [after 30 s]")
        assert "scorer 1 started again [after 30 s]" in stream.getvalue()


def test_off_says_nothing_of_steps():
    assert shown(3, 3, "off") == ""


def test_the_panel_shows_reward_kl_judges_and_stages():
    stream = io.StringIO()
    with Progress(10, "panel", "MusicRL · run 1", stream) as progress:
        progress.evaluated({"attributes": 0.5})
        progress.update(row(1))
        progress.update(row(2, reward=1.5, judge_attributes=0.625))
        progress.status("evaluating step 2")
    text = stream.getvalue()
    for part in (
        "MusicRL · run 1",
        "2/10",
        "left 0:16",
        "+1.000 (from +0.500)",
        "quality 3.25 (from 3.25)",
        "1.50 nats/clip",
        "attributes 0.625 (from 0.5)",
        "32.0 sequences/s",
        "sample 75%",
        "learn 25%",
        "evaluating step 2",
    ):
        assert part in text, part
    assert "std" not in text


def test_a_panel_without_any_row_can_be_shown():
    stream = io.StringIO()
    Progress(10, "panel", "MusicRL", stream).close()
    assert "0/10" in stream.getvalue()


def test_a_store_that_is_gone_is_said_at_once_and_stays_in_the_panel_until_it_is_back():
    lines, panels = io.StringIO(), [io.StringIO(), io.StringIO()]
    with Progress(8, "lines", "MusicRL", lines) as progress:
        progress.storage_waits("s3://bucket/run", "http://store cannot be reached", 1800.0)
        progress.storage_is_back("s3://bucket/run", 61.0)
    assert "storage: s3://bucket/run: http://store cannot be reached: waiting, at most 30:00" in lines.getvalue()
    assert "s3://bucket/run takes writes again after 1:01; nothing is lost" in lines.getvalue()
    for back, panel in enumerate(panels):
        with Progress(8, "panel", "MusicRL", panel) as progress:
            progress.storage_waits("s3://bucket/run", "no server", 1800.0)
            if back:
                progress.storage_is_back("s3://bucket/run", 61.0)
    assert "no server: waiting, at most 30:00" in panels[0].getvalue().rpartition("STORAGE")[2]
    assert "STORAGE" not in panels[1].getvalue().rpartition("takes writes again")[2]


def test_values_are_means_over_the_last_rows_and_skip_nan():
    standing = Standing(30, "")
    for step in range(1, 21):
        standing.add(row(step, reward=float(step), value_loss=float("nan")))
    assert standing.value("reward") == sum(range(11, 21)) / 10
    assert standing.first("reward") == 1.0
    assert standing.value("value_loss") is None and standing.value("entropy") is None
    assert standing.left_s == 20.0


def test_the_start_of_the_run_is_no_part_of_a_step():
    standing = Standing(30, "")
    standing.add(row(1, seconds_start=60.0, seconds_step=62.0))
    assert standing.stage_shares() == {} and standing.step_s is None
    standing.add(row(2))
    assert standing.stage_shares() == {"sample": 0.75, "learn": 0.25} and standing.step_s == 2.0


def test_no_judges_are_no_line():
    stream = io.StringIO()
    progress = Progress(3, "lines", "MusicRL", stream)
    progress.evaluated({})
    progress.evaluated({"attributes": 0.5})
    assert stream.getvalue() == "held-out  attributes 0.5\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (7500, "2:05:00"), (-3, "0:00")])
def test_durations_read_like_a_clock(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0.0, 1.0], 8) == "▁█"
    assert sparkline([float(i) for i in range(80)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("nan"), 1.0], 8) == "▁▁"
    assert sparkline([1.0], 8) == ""
