"""Votes under load: the listening app on Ray Serve over loopback, votes at a fixed rate, clips streamed beside them.

    python -m benchmarks.votes [rates=60,100] [seconds=10] [clips=20] [key=value of feedback.main ...]

Listeners are given their pairs first, so that a request measured is a vote: session, token, rates and ranges checked,
one durable transaction. Votes are sent when they are due, whether or not earlier ones were answered (an open loop), and
timed from when they were due; `clips` files are fetched each second meanwhile. The load is made on the same cores.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.listening_app import NO_LIMITS, cpu_seconds, listening_app

PORT = 18765
START_S = 300.0
PREPARED_AT_ONCE = 12
SETTLE_S = 2.0
SETTINGS = [
    "heard.share=0",
    "heard.at_least_s=0",
    "pool.listeners=1000000",
    "pool.pairs=4",
    *NO_LIMITS,
]
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ballot:
    """A vote that is ready to be sent."""

    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Answered:
    status: int
    seconds: float  # from when it was due


def main(arguments: list[str]) -> None:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    rates = [float(rate) for rate in given.pop("rates", "60,100").split(",")]
    seconds, clips = float(given.pop("seconds", "10")), float(given.pop("clips", "20"))
    with listening_app(PORT, [*SETTINGS, *(f"{key}={value}" for key, value in given.items())]) as app:
        asyncio.run(measure(app, rates, seconds, clips))


async def measure(app: psutil.Process, rates: list[float], seconds: float, clips: float) -> None:
    """Prints a row for each rate."""
    print("| votes/s sent | acknowledged/s | p50 ms | p99 ms | slowest ms | clips/s | MB/s | CPU ms a vote | load |")
    print("|---|---|---|---|---|---|---|---|---|")
    connector = aiohttp.TCPConnector(limit=256, keepalive_timeout=30)
    cookies = aiohttp.DummyCookieJar()  # each request brings those of its own listener
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", connector=connector, cookie_jar=cookies) as client:
        for rate in rates:
            ballots, sounds = await prepare(client, round(rate * seconds))
            await asyncio.sleep(SETTLE_S)
            load, before_s = os.getloadavg()[0], cpu_seconds(app)
            votes, streamed = await run(client, ballots, sounds, rate, clips)
            print(row(rate, votes, streamed, cpu_seconds(app) - before_s, load), flush=True)
    print(f"\n{os.cpu_count()} cores, which also make the load; votes for {seconds:g} s at each rate; CPU: of all of")
    print("the app's processes, clips and idle work included")


def row(rate: float, votes: list[Answered], streamed: tuple[int, int, float], cpu_s: float, load: float) -> str:
    good = np.array([vote.seconds for vote in votes if vote.status == 200]) * 1000
    files, size, took_s = streamed
    p50, p99 = np.percentile(good, [50, 99])
    return (
        f"| {rate:g} | {len(good) / took_s:.1f} | {p50:.0f} | {p99:.0f} | {good.max():.0f} "
        f"| {files / took_s:.1f} | {size / took_s / 1e6:.2f} | {1000 * cpu_s / len(votes):.1f} | {load:.1f} |"
    )


async def prepare(client: aiohttp.ClientSession, count: int) -> tuple[list[Ballot], list[tuple[str, str]]]:
    """New listeners with a pair each -> their votes, and clips with a cookie that may fetch them."""
    turns = asyncio.Semaphore(PREPARED_AT_ONCE)
    prepared = await asyncio.gather(*(_prepare_one(client, turns) for _ in range(count)))
    return [ballot for ballot, _ in prepared], [sound for _, sounds in prepared for sound in sounds]


async def _prepare_one(client: aiohttp.ClientSession, turns: asyncio.Semaphore) -> tuple[Ballot, list[tuple[str, str]]]:
    async with turns:
        async with client.get("/api/session", headers={"cookie": "none=1"}) as answer:
            token, cookie = (await answer.json())["csrf_token"], _cookie(answer)
        headers = {"x-csrf-token": token, "cookie": cookie}
        async with client.put("/api/consent", json={"consent": "train"}, headers=headers) as answer:
            answer.raise_for_status()
        pair, offer = await _pair(client, headers)
    played = {side: {"clip_id": pair[side]["clip_id"], "played": [[0, 0.4], [0.5, 0.9]]} for side in "ab"}
    body = {"vote_id": secrets.token_hex(16), "pair_id": pair["pair_id"], "choice": "a", **played}
    return Ballot({**headers, "cookie": f"{cookie}; {offer}"}, body), [(pair[side]["url"], cookie) for side in "ab"]


async def _pair(client: aiohttp.ClientSession, headers: dict[str, str]) -> tuple[dict[str, Any], str]:
    """A pair and the cookie that says whose it is; waits while the first ones are made."""
    give_up, method = time.monotonic() + START_S, "POST"
    while time.monotonic() < give_up:
        async with client.request(method, "/api/pair", json={"prompt": None}, headers=headers) as answer:
            state = await answer.json()
            if state.get("state") == "ready":
                return state["pair"], _cookie(answer)
        method = "GET"
        await asyncio.sleep(0.2)
    raise RuntimeError("no pair")


def _cookie(answer: aiohttp.ClientResponse) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


async def run(
    client: aiohttp.ClientSession, ballots: list[Ballot], sounds: list[tuple[str, str]], rate: float, clips: float
) -> tuple[list[Answered], tuple[int, int, float]]:
    """-> votes; files, bytes and seconds."""
    started = time.perf_counter()
    last = len(ballots) / rate
    votes = [_vote(client, ballot, started + number / rate) for number, ballot in enumerate(ballots)]
    fetches = [
        _fetch(client, sounds[number % len(sounds)], started + number / clips) for number in range(round(last * clips))
    ]
    answered, sizes = await asyncio.gather(asyncio.gather(*votes), asyncio.gather(*fetches))
    return list(answered), (len(sizes), sum(sizes), time.perf_counter() - started)


async def _vote(client: aiohttp.ClientSession, ballot: Ballot, due: float) -> Answered:
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    async with client.post("/api/votes", json=ballot.body, headers=ballot.headers) as answer:
        await answer.read()
        return Answered(answer.status, time.perf_counter() - due)


async def _fetch(client: aiohttp.ClientSession, sound: tuple[str, str], due: float) -> int:
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    size = 0
    async with client.get(sound[0], headers={"cookie": sound[1]}) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
    return size


if __name__ == "__main__":
    main(sys.argv[1:])
