"""kill -9 of the app and of its replica, again and again, while votes come in: each acknowledged vote is there once.

On SQLite, and on the PostgreSQL of MUSICRL_POSTGRES_URL where that is set (python -m tests.postgres.serve COMMAND).
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from feedback.preference_log import PreferenceLog
from feedback.settings import load_settings
from tests.feedback_app.served_app import HttpListener, ServedApp, new_folder, vote_body
from tests.postgres.database import own_database
from tests.system.tiny_world import TinyWorld

POSTGRES = os.environ.get("MUSICRL_POSTGRES_URL", "")
VOTES, LISTENERS, KILLS = 500, 10, 8


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.skipif(not POSTGRES, reason="no MUSICRL_POSTGRES_URL")),
    ]
)
def log_words(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Settings that name the database."""
    if request.param == "sqlite":
        yield []
        return
    with own_database(POSTGRES) as url:
        yield [f"log.url={url}"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_acknowledged_vote_is_there_once(world: TinyWorld, log_words: list[str]) -> None:
    folder = new_folder()
    words = [
        f"policies=base={world.folder / 'policy'}",
        f"codec={world.folder / 'codec'}",
        "seconds=0.4",
        "heard.share=0",
        "heard.at_least_s=0",
        f"prompts.suggestions={world.folder / 'train.txt'}",
        "pool.listeners=1000",
        "limits.votes=100000/minute",
        "limits.prompts=100000/minute",
        "limits.requests=1000000/minute",
        "limits.listeners=100000/hour",
        *log_words,
    ]
    app = ServedApp(folder, words).start()
    acknowledged: list[str] = []
    try:
        with ThreadPoolExecutor(LISTENERS) as threads:
            voters = [threads.submit(vote_again_and_again, app.url, acknowledged) for _ in range(LISTENERS)]
            kill_again_and_again(app, acknowledged, voters)
            for voter in voters:
                voter.result()
        app.stop()
        settings = load_settings([f"log.dir={folder / 'log'}", *words])
        with PreferenceLog.open(settings.log_url, settings.audio_dir) as log:
            stored = [vote.vote_id for vote in log.votes()]
        assert len(acknowledged) == len(set(acknowledged)) == VOTES
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored)
    finally:
        app.kill()
        shutil.rmtree(folder, ignore_errors=True)


def vote_again_and_again(url: str, acknowledged: list[str]) -> None:
    listener = HttpListener(url)
    for _ in range(VOTES // LISTENERS):
        body = vote_body(listener.pair())
        answer = listener.insist("POST", "/api/votes", json=body)
        assert answer.status_code == 200, answer.text
        acknowledged.append(answer.json()["record_id"])
        assert listener.insist("POST", "/api/votes", json=body).status_code == 200  # a page that heard no answer


def kill_again_and_again(app: ServedApp, acknowledged: list[str], voters: list[Future[None]]) -> None:
    """In turns the replica and the whole app, spread over the votes. Raises what a voter raised."""
    for turn in range(KILLS):
        give_up = time.monotonic() + 600
        while len(acknowledged) < (turn + 0.5) * VOTES / KILLS:
            assert time.monotonic() < give_up, f"{len(acknowledged)} votes after {turn} kills"
            for voter in voters:
                if voter.done():
                    voter.result()
            threading.Event().wait(0.02)
        if turn % 2:
            app.kill()
            app.start()
        else:
            os.kill(app.replica(), signal.SIGKILL)
