"""Keeps the clip makers at work, so that a pair is there when a listener asks.

    own prompts (first come, first served)  ─┐
    pool of suggested prompts, when low      ├─▶ next task ─▶ a maker's loop ─▶ PairWriter ─▶ log ─▶ Request, Pool, desk
    items of a study that lack clips        ─┘

Each own prompt has a deadline, counted from when it was asked for; what is not made by then has failed, and says so.
While the makers are down, own prompts fail at once with a message, and the pool tries again, ever more slowly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

from cluster.errors import RunFailed
from feedback.errors import Unavailable
from feedback.meter import Meter
from feedback.pair_writer import Makers, PairWriter, StudyTask
from feedback.pool import Pool
from feedback.rating_desk import RatingDesk
from feedback.records import Pair
from feedback.settings import MakerSettings
from feedback.waiting_line import Request, Requests

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
DOWN = "The model is not answering. Please try again in a moment."
LATE = "The model is busy: your pair was not ready in time. Please try again."
STORE_DOWN = "Clips cannot be saved right now. Please try again in a moment."


class Studio:
    """The tasks and the loops that work them off, one loop for each clip maker."""

    def __init__(
        self,
        makers: Makers,
        writer: PairWriter,
        pool: Pool,
        suggestions: Sequence[str],
        settings: MakerSettings,
        meter: Meter,
        rng: random.Random,
        desk: RatingDesk | None = None,
        study_tasks: Sequence[StudyTask] = (),
    ) -> None:
        self._makers, self._writer, self._pool, self._settings = makers, writer, pool, settings
        self._suggestions, self._meter, self._rng, self._desk = tuple(suggestions), meter, rng, desk
        self._suggested = frozenset(suggestions)
        self._study_tasks, self._study_left = list(study_tasks), len(study_tasks)
        self._requests = Requests(settings.deadline_s, settings.queue)
        self._pool_tasks = 0  # under way
        self._work = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._closing = False
        self._pause_s = self._paused_until = 0.0  # pause after the last failure; 0: the makers are up
        meter.watch("pool_pairs", "fresh pairs that wait for a listener", lambda: len(pool))
        meter.watch("queue", "own prompts that wait", lambda: len(self._requests))
        meter.watch("makers_up", "1: the last task of the clip makers succeeded", lambda: float(self.is_up))

    @property
    def is_up(self) -> bool:
        return self._main is not None and self._pause_s == 0

    @property
    def study_left(self) -> int:
        """Items of the study whose clips are not made yet."""
        return self._study_left

    def start(self) -> None:
        """Returns at once; the makers start in the background."""
        self._main = asyncio.create_task(self._run())

    async def close(self) -> None:
        self._closing = True  # a cancellation that meets a task's end may be lost: the loops look here, too
        self._work.set()
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        await self._makers.close()

    def ask(self, listener_id: str, prompt: str | None, group: str = "") -> Request:
        """A listener asks for a pair: of their own or a suggested prompt, or of any (None). What is in the pool is
        there at once. A new request takes the place of the listener's last.

        group: whose policy they allow us to play to them; where it has one of its own, the pair is made for them.

        Raises Busy when too many wait.
        """
        last = self.request_of(listener_id)
        if last is not None and last.is_open and prompt in (None, last.prompt):
            return last  # asked again, by a page that was loaded anew
        group = group if self._writer.repertoire.has_own(group) else ""
        pair = None if group else self._pool.take(listener_id, prompt)
        chosen = pair.prompt if pair else prompt or self._rng.choice(self._suggestions)
        asked_by = "" if chosen in self._suggested else listener_id
        request = self._requests.add(listener_id, chosen, prompt, asked_by, pair, group)
        if pair is not None:
            self._meter.wait_s.observe(0.0)
        self._work.set()
        return request

    def request_of(self, listener_id: str) -> Request | None:
        """The listener's last request, failed if its deadline has passed."""
        request = self._requests.of(listener_id)
        if request is not None and self._requests.left_s(request) <= 0:
            request.fail(LATE if self.is_up else DOWN)
        return request

    def ahead_of(self, request: Request) -> int:
        """Own prompts that wait before this one."""
        return self._requests.ahead_of(request)

    def answered(self, listener_id: str, pair_id: str) -> None:
        """The listener is done with a pair: if it is that of their last request, there is none any more."""
        request = self._requests.of(listener_id)
        if request is not None and request.pair is not None and request.pair.pair_id == pair_id:
            self._requests.drop(listener_id)
        self._pool.answered(listener_id, pair_id)

    def forget(self, listener_id: str) -> None:
        """The listener had themselves deleted."""
        self._requests.drop(listener_id)

    def suggestions(self, listener_id: str, count: int) -> list[str]:
        """Suggested prompts, first those whose pair is there for this listener."""
        ready = self._pool.prompts(listener_id)
        others = self._rng.sample(self._suggestions, min(count, len(self._suggestions)))
        return list(dict.fromkeys([*ready, *others]))[:count]

    async def _run(self) -> None:
        """Starts the makers, however often it takes, then works."""
        while True:
            try:
                await self._makers.start()
                break
            except RunFailed as error:
                self._failed("start", error)
                await asyncio.sleep(self._pause_s)
        self._pause_s = 0.0
        await asyncio.gather(*(self._work_off() for _ in range(self._settings.actors)))

    async def _work_off(self) -> None:
        """One task after the other."""
        while not self._closing:
            if self._writer.repertoire.look():
                self._pool.clear()  # what is voted on from now on is the newest version's
                self._meter.compare(self._writer.repertoire.versions)
            if len(self._requests):
                await self._serve(self._requests.next())
            elif time.monotonic() < self._paused_until:
                await self._wait()
            elif self._pool.lacks > self._pool_tasks:
                await self._fill_pool()
            elif self._study_tasks:
                await self._make_study_item(self._study_tasks.pop(0))
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Until somebody asks, or for a moment."""
        self._work.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PAUSE_S):
                await self._work.wait()

    async def _serve(self, request: Request) -> None:
        shared = not (request.asked_by or request.group)
        given = self._pool.take(request.listener_id, request.wanted) if shared else None
        if given is not None:  # made for somebody else meanwhile
            self._finish(request, given)
            return
        left_s = self._requests.left_s(request)
        if left_s <= 0:
            request.fail(LATE)
            return
        making = self._writer.make(request.prompt, request.asked_by, request.reach, request.group)
        pair, problem = await self._attempt("own", making, left_s)
        if pair is None:
            request.fail(problem)
            return
        if shared:
            self._pool.add(pair, request.listener_id)
        self._finish(request, pair)

    def _finish(self, request: Request, pair: Pair) -> None:
        request.finish(pair)
        self._meter.wait_s.observe(self._requests.age_s(request))

    async def _fill_pool(self) -> None:
        self._pool_tasks += 1
        try:
            pair, _ = await self._attempt("pool", self._writer.make(self._unpooled(), "", lambda stage: None))
        finally:
            self._pool_tasks -= 1
        if pair is not None:
            self._pool.add(pair)

    async def _make_study_item(self, task: StudyTask) -> None:
        orders, _ = await self._attempt("study", self._writer.make_study(task))
        if orders is None:
            self._study_tasks.append(task)
        elif self._desk is not None:
            self._desk.add(*orders)
            self._study_left -= 1

    async def _attempt(self, purpose: str, making: Awaitable[T], limit_s: float | None = None) -> tuple[T | None, str]:
        """-> what was made, or None and why not in words for a listener. A failure must not end the loop."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit_s or self._settings.deadline_s):
                made = await making
        except Exception as error:
            self._failed(purpose, error)
            return None, STORE_DOWN if isinstance(error, Unavailable) else DOWN
        self._pause_s = 0.0
        self._meter.pairs.labels(purpose).inc()
        self._meter.make_s.observe(time.monotonic() - started)
        return made, ""

    def _failed(self, purpose: str, error: Exception) -> None:
        log.warning("clip makers, %s: %s", purpose, error or type(error).__name__)
        self._meter.failures.labels(purpose).inc()
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._paused_until = time.monotonic() + self._pause_s

    def _unpooled(self) -> str:
        """A suggested prompt that the pool does not hold, if there is one."""
        held = set(self._pool.prompts())
        free = [prompt for prompt in self._suggestions if prompt not in held]
        return self._rng.choice(free or list(self._suggestions))
