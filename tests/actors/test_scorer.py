"""A scorer's answers: what a reward model does wrong comes back as a status."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from actors.records import Rollout
from actors.scorer import Scorer
from cluster.errors import UserError
from configs.schema import RewardConfig
from rewards.port import ClipBatch
from tests.actors.rollouts import task_of

TARGET = "tests.actors.failing_rewards:Obedient"


@pytest.fixture
def scorer() -> Scorer:
    return Scorer({"mine": RewardConfig(target=TARGET, shift=1.0, scale=2.0)}, "run-a", threads=1)


def clips(*prompts: str) -> ClipBatch:
    return ClipBatch(prompts, 16_000)


def test_scores_come_with_the_rewards_version(scorer: Scorer) -> None:
    reply = scorer.score("mine", clips("a 1", "b 2"), deadline_s=5.0)
    assert (reply.status, reply.version, reply.epoch, reply.reason) == ("ok", "obedient-1", "run-a", "")
    assert reply.scores is not None and reply.scores.tolist() == [1.0, 2.0]


def test_some_rows_of_a_rollout(scorer: Scorer) -> None:
    task = task_of(0, rows=3)
    codes = np.zeros((3, 1, 1), np.uint16)
    rollout = Rollout(task, "run-a", 0, codes, codes.astype(np.float32), clips("a 1", "b 2", "c 3"), {})
    reply = scorer.score("mine", rollout, rows=[2, 0])
    assert reply.scores is not None and reply.scores.tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("prompt", "status", "reason"),
    [
        ("raise 1", "error", "ArithmeticError: this clip is beyond me"),
        ("shape 1", "error", "returned shape [1, 2], allowed [1]"),
        ("hang 1", "timeout", "no score within 0.2 s"),
    ],
)
def test_a_failure_is_an_answer(scorer: Scorer, prompt: str, status: str, reason: str) -> None:
    reply = scorer.score("mine", clips(prompt), deadline_s=0.2)
    assert (reply.status, reply.reason, reply.scores) == (status, reason, None)


def test_an_infinite_score_is_missing(scorer: Scorer) -> None:
    reply = scorer.score("mine", clips("inf 1", "b 2"))
    assert reply.scores is not None and np.isnan(reply.scores[0]) and reply.scores[1] == 2.0


def test_the_alarm_leaves_no_trace(scorer: Scorer) -> None:
    handler, (left_s, _) = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 1000.0)
    scorer.score("mine", clips("a 1"), deadline_s=0.2)
    assert 900.0 < signal.setitimer(signal.ITIMER_REAL, left_s)[0] <= 1000.0
    assert signal.getsignal(signal.SIGALRM) is handler


def test_outside_of_the_main_thread_there_is_no_alarm_but_a_score(scorer: Scorer) -> None:
    replies = []
    thread = threading.Thread(target=lambda: replies.append(scorer.score("mine", clips("a 1"), deadline_s=0.2)))
    thread.start()
    thread.join()
    assert replies[0].status == "ok"


def test_facts_follow_the_config(scorer: Scorer) -> None:
    facts = scorer.facts()["mine"]
    assert (facts.version, facts.needs, facts.shift, facts.scale) == ("obedient-1", {"codes"}, 1.0, 2.0)


def test_a_reward_that_cannot_be_built_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"rewards\.mine"):
        Scorer({"mine": RewardConfig(target="tests.actors.failing_rewards:Nobody")}, "run-a", threads=1)
