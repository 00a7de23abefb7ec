"""The app on a random-weight world, in one process: real models, a real log on SQLite, a clock that tests move."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from codec.checkpoint import load_codec, save_codec
from feedback.clip_maker import ClipMaker
from feedback.preference_log import PreferenceLog
from feedback.repertoire import folder_of
from feedback.sessions import load_key
from feedback.settings import Settings, load_settings
from feedback.web.app import create_app
from policy.checkpoint import load_policy, policy_version, save_policy
from policy.port import SamplingSettings
from tests.system.tiny_world import TinyWorld, build_tiny_world

GOOD, OTHER = "gilded", "cerulean"  # names of policies that no page would hold by chance
SECONDS = 1.0
ADMIN_TOKEN = "a-token-for-the-tests"


class LocalMakers:
    """The clip maker in a thread instead of a Ray actor. `problem` is raised instead of an answer, if set."""

    def __init__(self, maker: ClipMaker) -> None:
        self._maker, self.problem = maker, None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def call(self, method: str, *args: Any) -> Any:
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        return await asyncio.to_thread(getattr(self._maker, method), *args)


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SmallApp:
    """Everything that a test may want to hold of one app."""

    folder: Path
    world: TinyWorld
    words: list[str]
    clock: Clock = field(default_factory=Clock)
    rng: random.Random | None = None
    start: bool = True  # False: another server runs it
    gated: bool = False  # True: nothing is made until makers.gate is set

    def __post_init__(self) -> None:
        self.settings: Settings = load_settings(self.words)
        self.log = PreferenceLog.open(self.settings.log_url, self.settings.audio_dir, deadline_s=1.0)
        folders = self.settings.policy_folders
        sampling = SamplingSettings()
        maker = ClipMaker(folders, self.settings.codec, self.settings.seconds, sampling, None, threads=1)
        self.makers = LocalMakers(maker)
        if self.gated:
            self.makers.gate.clear()
        versions = {name: policy_version(folder_of(path)) for name, path in folders.items()}
        key = load_key(self.folder)
        self.app: FastAPI = create_app(
            self.settings, self.log, self.makers, key, versions, ADMIN_TOKEN, self.clock, self.rng
        )
        self.client = TestClient(self.app, raise_server_exceptions=False)
        if self.start:
            self.client.__enter__()

    def close(self) -> None:
        if self.start:
            self.client.__exit__(None, None, None)
        self.log.close()

    def restarted(self) -> SmallApp:
        """As after a kill: the same settings, log, key and clock, nothing else."""
        self.close()
        return SmallApp(self.folder, self.world, self.words, self.clock)

    def await_pool(self) -> None:
        """Until the pool is full; from then on nothing is being made."""
        pool = self.app.state.parts.studio._pool
        wait_until(lambda: pool.lacks == 0)

    def visitor(self, consent: str | None = "train") -> Visitor:
        return Visitor(self, consent)


class Visitor:
    """A listener's browser: cookies of its own, and the token that the page holds."""

    def __init__(self, app: SmallApp, consent: str | None = "train") -> None:
        self.app, self.cookies = app, {}
        self.token = self.request("GET", "/api/session").json()["csrf_token"]
        if consent:
            assert self.request("PUT", "/api/consent", json={"consent": consent}).status_code == 200

    def move_to(self, app: SmallApp) -> None:
        self.app = app

    def request(self, method: str, path: str, **options: Any) -> Any:
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if method != "GET" and hasattr(self, "token"):
            headers["x-csrf-token"] = self.token
        headers |= options.pop("headers", {})
        self.app.client.cookies.clear()  # the client is shared by all visitors
        response = self.app.client.request(method, path, headers=headers, **options)
        for name, value in response.cookies.items():
            self.cookies[name] = value
        for line in response.headers.get_list("set-cookie"):
            if "Max-Age=0" in line:
                self.cookies.pop(line.partition("=")[0], None)
        return response

    def pair(self, prompt: str | None = None) -> dict[str, Any]:
        """Asks for a pair and waits until it is there."""
        answer = self.request("POST", "/api/pair", json={"prompt": prompt})
        assert answer.status_code == 200, answer.text
        state = answer.json()
        for _ in range(2000):
            if state["state"] in ("ready", "failed"):
                break
            state = self.request("GET", "/api/pair").json()
        assert state["state"] == "ready", state
        return state["pair"]

    def vote(self, pair: dict[str, Any], choice: str = "a", **changes: Any) -> Any:
        """A vote after both clips were heard to the end, but for `changes` of the body."""
        self.app.clock.now += 2 * SECONDS
        return self.request("POST", "/api/votes", json=vote_body(pair, choice, **changes))


def vote_body(pair: dict[str, Any], choice: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"vote_id": secrets.token_hex(16), "pair_id": pair["pair_id"], "choice": choice, **heard(pair)}
    return body | changes


def heard(pair: dict[str, Any]) -> dict[str, Any]:
    """Both clips from beginning to end."""
    return {side: {"clip_id": pair[side]["clip_id"], "played": [[0.0, pair[side]["seconds"]]]} for side in ("a", "b")}


def audible_world(folder: Path) -> TinyWorld:
    """The tiny world with a codec in which different codes sound different."""
    world = build_tiny_world(folder)
    codec = load_codec(world.folder / "codec")
    codec.quantizer.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    save_codec(codec, world.folder / "codec")
    return world


def second_policy(world: TinyWorld) -> Path:
    """A policy that differs from the world's."""
    return scaled_policy(world, "other_policy", 1.5)


def scaled_policy(world: TinyWorld, name: str, factor: float) -> Path:
    """The world's policy with all its weights times `factor`."""
    folder = world.folder / name
    if not folder.exists():
        policy = load_policy(world.folder / "policy")
        for parameter in policy.parameters():
            parameter.data.mul_(factor)
        save_policy(policy, folder)
    return folder


def small_app(
    folder: Path,
    world: TinyWorld,
    rng: random.Random | None = None,
    start: bool = True,
    gated: bool = False,
    **settings: Any,
) -> SmallApp:
    """settings: dots written as two underscores."""
    chosen = {
        "policies": f"{GOOD}={world.folder / 'policy'},{OTHER}={second_policy(world)}",
        "codec": world.folder / "codec",
        "seconds": SECONDS,
        "heard.at_least_s": 0.2,
        "log.dir": folder,
        "pool.pairs": 2,
        "prompts.suggestions": world.folder / "train.txt",
        "study.prompts": world.folder / "eval.txt",
        "limits.requests": "100000/minute",
        "limits.listeners": "10000/minute",
    }
    chosen |= {name.replace("__", "."): value for name, value in settings.items()}
    words = [f"{name}={value}" for name, value in chosen.items()]
    return SmallApp(folder, world, words, rng=rng, start=start, gated=gated)


def everything(log: PreferenceLog) -> tuple[list[Any], list[Any], list[Any]]:
    """Votes, ratings and listeners in the log."""
    return list(log.votes()), list(log.ratings()), list(log.listeners())


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up, "waited for 30 s"
        time.sleep(0.01)
