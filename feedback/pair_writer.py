"""Makes one pair: two takes in random order, durable in the log before anybody hears of them."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

from cluster.errors import RunFailed
from feedback.errors import Reason, Refused
from feedback.preference_log import PreferenceLog
from feedback.records import Pair
from feedback.repertoire import Repertoire
from feedback.takes import MadeClip, Take
from feedback.threads import LogThreads
from feedback.waiting_line import Stage

LARGEST_SEED = 2**63
ATTEMPTS = 3


class Makers(Protocol):
    """Clip makers, wherever they run; actors in the app."""

    async def start(self) -> None: ...

    async def call(self, method: str, *args: Any) -> Any:
        """Result of a method of an idle ClipMaker. Raises RunFailed where none answers before its deadline."""
        ...

    async def close(self) -> None: ...


Progress = Callable[[Stage], None]


@dataclass(frozen=True)
class StudyTask:
    """One item of a side-by-side evaluation, still to be made."""

    study: str
    prompt: str
    takes: tuple[Take, Take]


class PairWriter:
    """From a prompt to a pair in the log."""

    def __init__(
        self,
        makers: Makers,
        log: PreferenceLog,
        threads: LogThreads,
        repertoire: Repertoire,
        rng: random.Random,
        same: float = 0.0,
    ) -> None:
        """same: share of pairs in which the first policy plays both clips."""
        self._makers, self._log, self._threads, self._rng = makers, log, threads, rng
        self.repertoire, self._same = repertoire, same

    async def make(self, prompt: str, asked_by: str, progress: Progress, group: str = "") -> Pair:
        """A pair for free use. asked_by: the listener whose own prompt it is, or ""; group: to whom it is played.

        Raises RunFailed where no maker answers or both clips come out the same, Unavailable where the log does not.
        """
        for _ in range(ATTEMPTS):
            made = await self._clips(prompt, self._takes(group), progress)
            if made[0].clip.clip_id != made[1].clip.clip_id:
                break
        else:
            raise RunFailed("the policies play the same clip, whatever the noise")
        progress(Stage.SAVING)
        pair = Pair(
            pair_id=secrets.token_hex(16),
            prompt=prompt,
            clip_a=made[0].clip.clip_id,
            clip_b=made[1].clip.clip_id,
            study="",
            created_at=datetime.now(UTC),
            asked_by=asked_by,
        )
        await self._save(made, [pair])
        return pair

    async def make_study(self, task: StudyTask) -> tuple[Pair, Pair]:
        """The two orders of one item of a study. Raises as `make` does."""
        made = await self._clips(task.prompt, task.takes, lambda stage: None)
        first, second = (each.clip.clip_id for each in made)
        if first == second:
            raise RunFailed(f"study: both clips of {task.prompt!r} came out the same")
        orders = [self._study_pair(task, one, other) for one, other in ((first, second), (second, first))]
        try:
            await self._save(made, orders)
        except Refused as refused:
            if refused.reason is not Reason.CONFLICT:
                raise
            orders = [await self._threads.run(self._log.pair, pair.pair_id) for pair in orders]  # made before, and kept
        return orders[0], orders[1]

    def _takes(self, group: str) -> tuple[Take, Take]:
        """Two policies, or one twice, on random sides."""
        policies = self.repertoire.names
        alone = len(policies) == 1 or (self._same > 0 and self._rng.random() < self._same)
        names = [policies[0]] * 2 if alone else self._rng.sample(policies, 2)
        one, other = (
            Take(name, self._rng.randrange(LARGEST_SEED), self.repertoire.version(name, group)) for name in names
        )
        return one, other

    async def _clips(self, prompt: str, takes: tuple[Take, Take], progress: Progress) -> list[MadeClip]:
        progress(Stage.SAMPLING)
        codes = await self._makers.call("sample", prompt, takes)
        progress(Stage.RENDERING)
        made: list[MadeClip] = await self._makers.call("render", prompt, takes, codes)
        return made

    def _study_pair(self, task: StudyTask, clip_a: str, clip_b: str) -> Pair:
        """Its id follows from what it holds: made again, it is the same pair."""
        name = "\n".join((task.study, task.prompt, clip_a, clip_b))
        pair_id = sha256(name.encode()).hexdigest()[:32]
        return Pair(pair_id, task.prompt, clip_a, clip_b, task.study, datetime.now(UTC))

    async def _save(self, made: Sequence[MadeClip], pairs: Sequence[Pair]) -> None:
        def write() -> None:
            for each in made:
                self._log.add_clip(each.clip, each.flac)
            self._log.add_pairs(pairs)

        await self._threads.run(write)
