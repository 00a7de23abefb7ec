"""The small parts: what was heard, prompts, the pool, the command line."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from feedback.errors import Refused
from feedback.heard import heard_of
from feedback.pool import KEPT_PER_FRESH, Pool
from feedback.prompt_rules import PromptRefused, PromptRules, load_blocklist
from feedback.records import Pair
from feedback.restart import study_tasks
from feedback.settings import HeardSettings, StudySettings, all_settings, load_settings, needed_seconds, usage
from feedback.waiting_line import Busy, Requests, Stage

ROOT = Path(__file__).resolve().parents[2]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)).map(sorted), max_size=12))
def test_what_was_heard_is_the_union(stretches: list[list[float]]) -> None:
    played = heard_of(stretches, 4.0)
    moments = np.linspace(0, 4, 4001)
    kept = [stretch for stretch in stretches if stretch[1] - stretch[0] >= 0.02]
    for moment in moments[:: max(1, len(moments) // 200)]:
        inside = any(start < moment < end for start, end in played.ranges)
        if any(start < moment < end for start, end in kept):
            assert inside or any(moment in edge for edge in played.ranges)
        if not any(start <= moment <= end for start, end in stretches):
            assert not inside
    assert all(one[1] < other[0] for one, other in zip(played.ranges, played.ranges[1:], strict=False))
    assert played.seconds <= 4.0


@pytest.mark.parametrize(
    ("stretches", "heard_s"),
    [
        ([], 0.0),
        ([(0, 1), (1, 2)], 2.0),
        ([(2, 3), (0, 1)], 2.0),
        ([(0, 4.2)], 4.0),
        ([(-0.1, 1)], 1.0),
        ([(1, 1)], 0.0),
        ([(0, 0.004), (0.003, 1.0)], 1.0),
    ],
)
def test_ranges_in_numbers(stretches: list[tuple[float, float]], heard_s: float) -> None:
    assert heard_of(stretches, 4.0).seconds == pytest.approx(heard_s, abs=0.01)


@pytest.mark.parametrize("stretch", [(3, 2), (0, 9), (-1, 2), (float("nan"), 1), (0, float("inf")), (5, 6)])
def test_impossible_ranges(stretch: tuple[float, float]) -> None:
    with pytest.raises(Refused):
        heard_of([stretch], 4.0)


@pytest.mark.parametrize(
    ("share", "at_least_s", "seconds", "needed_s"),
    [(0.5, 2.0, 4.0, 2.0), (0.5, 2.0, 20.0, 10.0), (0.5, 2.0, 1.0, 1.0), (0.0, 0.0, 4.0, 0.0), (1.0, 2.0, 4.0, 4.0)],
)
def test_how_much_has_to_be_heard(share: float, at_least_s: float, seconds: float, needed_s: float) -> None:
    assert needed_seconds(HeardSettings(share, at_least_s), seconds) == needed_s


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_a_prompt_is_refused_or_plain_text_within_its_length(text: str) -> None:
    rules = PromptRules(20, ["bad word"])
    try:
        prompt = rules.clean(text)
    except PromptRefused:
        return
    assert 0 < len(prompt) <= 20 and prompt == " ".join(prompt.split()) == rules.clean(prompt)
    prompt.encode("utf-8")


@pytest.mark.parametrize("text", ["BAD  Word", "a bád\nword!", "ｂａｄ word", "bad word"])
def test_blocked_words_match_whatever_their_dress(text: str) -> None:
    with pytest.raises(PromptRefused):
        PromptRules(100, ["Bad Word"]).clean(text)


@pytest.mark.parametrize("text", ["bad wording", "not so bad, a word", "word bad"])
def test_only_whole_words_match(text: str) -> None:
    assert PromptRules(100, ["bad word"]).clean(text) == text


def test_a_blocklist_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name in ("none", "binary"):
        with pytest.raises(UserError, match=r"prompts\.blocklist"):
            load_blocklist(str(tmp_path / name))


def pair(name: str, prompt: str = "p") -> Pair:
    return Pair(name, prompt, "x", "y", "", datetime.now(UTC))


def test_a_pool_offers_a_pair_to_so_many_and_to_nobody_twice() -> None:
    pool = Pool(size=2, listeners=2)
    pool.add(pair("1", "one"))
    pool.add(pair("2", "two"))
    assert pool.lacks == 0 and pool.prompts("ann") == ["one", "two"]
    assert pool.take("ann").pair_id == "1"  # type: ignore[union-attr]
    assert pool.lacks == 1 and pool.prompts("ann") == ["two"]
    assert pool.take("bob", "two").pair_id == "2"  # type: ignore[union-attr]
    assert pool.take("bob").pair_id == "1"  # type: ignore[union-attr]
    assert pool.take("cid", "one") is None
    assert pool.take("cid").pair_id == "2"  # type: ignore[union-attr]
    assert pool.take("ann") is None and pool.take("dan") is None


def test_an_answer_to_a_pair_that_was_offered_before_a_restart_counts_as_offered() -> None:
    pool = Pool(size=1, listeners=2)
    pool.add(pair("1", "one"))
    pool.answered("ann", "1")
    pool.answered("ann", "unknown")
    assert pool.take("ann") is None and pool.lacks == 1
    assert pool.take("bob").pair_id == "1" and pool.take("cid") is None  # type: ignore[union-attr]


def test_a_pool_does_not_grow_without_end() -> None:
    pool = Pool(size=1, listeners=2)
    for number in range(50):
        pool.add(pair(str(number)))
        pool.take("ann")
    assert len(pool.prompts("bob")) == 1 and len(pool._offered) == KEPT_PER_FRESH


def test_requests_wait_in_line() -> None:
    now = [0.0]
    line = Requests(deadline_s=10, longest=2, clock=lambda: now[0])
    one, other = line.add("ann", "p", "p", "ann", None), line.add("bob", "q", "q", "bob", None)
    assert line.ahead_of(other) == 1
    with pytest.raises(Busy):
        line.add("cid", "r", "r", "cid", None)
    line.drop("ann")
    assert line.of("ann") is None and line.ahead_of(other) == 0 and line.next() is other
    now[0] = 11.0
    assert line.left_s(other) < 0
    other.fail("late")
    other.reach(Stage.SAVING)
    other.finish(pair("1"))
    assert (other.stage, other.pair, one.stage) == (Stage.FAILED, None, Stage.QUEUED)
    now[0] = 10_000.0
    line.add("dan", "s", None, "", pair("2"))
    assert line.of("bob") is None and line.of("dan").stage is Stage.READY  # type: ignore[union-attr]


def test_a_study_compares_each_two_policies_from_the_same_noise(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    study = StudySettings("s", str(tmp_path / "p.txt"), count=2)
    tasks = study_tasks(study, {"a": "1", "b": "2", "c": "3"})
    assert len(tasks) == 2 * 3
    assert all(task.takes[0].seed == task.takes[1].seed for task in tasks)
    assert {task.prompt for task in tasks} == {"one", "two"}
    (alone, *_) = study_tasks(study, {"a": "1"})
    assert alone.takes[0].seed != alone.takes[1].seed
    assert study_tasks(study, {"a": "1"}) == study_tasks(study, {"a": "1"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prot=1"], "prot: unknown key, did you mean port?"),
        (["--port=1"], "not understood"),
        (["port"], "not understood"),
        (["port=1", "port=2"], "port: given twice"),
        (["port=70000"], "port: got '70000', allowed a whole number, at least 1 and at most 65535"),
        (["heard.share=1.5"], "heard.share: got '1.5'"),
        (["policies=a=x,a=y"], "policies: got the name a twice"),
        (["policies=x"], "policies: got 'x', allowed NAME=FOLDER"),
        (["limits.votes=often"], "limits.votes: got 'often'"),
        (["study.name=../x"], "study.name"),
        (["loudness_dbfs=3"], "loudness_dbfs"),
    ],
)
def test_wrong_words_are_answered_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_settings(words)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_words_become_settings() -> None:
    chosen: Any = load_settings(["port=9001", "heard.share=0.25", "loudness_dbfs=null", "https=true"])
    assert (chosen.port, chosen.heard.share, chosen.loudness_dbfs, chosen.https) == (9001, 0.25, None, True)
    assert all(key.path in usage() and key.meaning for key in all_settings())


def test_the_command_ends_with_status_2_before_anything_starts(tmp_path: Path) -> None:
    words = ["policies=base=nowhere", f"log.dir={tmp_path / 'log'}"]
    done = subprocess.run(
        [sys.executable, "-m", "feedback.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: policies base: got 'nowhere', which does not exist; allowed a model folder\n"
    assert not (tmp_path / "log").exists()
