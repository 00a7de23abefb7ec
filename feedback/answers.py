"""Takes votes and ratings: only of a pair that was put before this very listener, and only when both clips were heard.

The pair comes from the offer that the app sealed into the listener's cookie; the ranges come from the page and are
checked here again. An answer is acknowledged when the log says that it is durable. The same answer sent again, with
its id, is acknowledged again, whatever happened in between.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from feedback.errors import Reason, Refused
from feedback.heard import heard_of
from feedback.meter import Meter
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Clip, Pair, Played, Rating, Receipt, Vote
from feedback.sessions import Clock, Offer
from feedback.settings import HeardSettings, needed_seconds
from feedback.threads import LogThreads

CACHED_PAIRS = 4096
CLOCK_SLACK_S = 1.0
HEARD_SLACK_S = 0.05  # a player's last report of a range may be a little short


@dataclass(frozen=True)
class Shown:
    """A pair and its clips."""

    pair: Pair
    clips: tuple[Clip, Clip]


@dataclass(frozen=True)
class Heard:
    """What the page says was played of one clip."""

    clip_id: str
    ranges: Sequence[tuple[float, float]]


class Answers:
    """The way of an answer into the log."""

    def __init__(
        self, log: PreferenceLog, threads: LogThreads, heard: HeardSettings, meter: Meter, clock: Clock = time.time
    ) -> None:
        self._log, self._threads, self._heard, self._meter, self._clock = log, threads, heard, meter, clock
        self._shown: OrderedDict[str, Shown] = OrderedDict()

    async def shown(self, pair_id: str) -> Shown:
        """The pair with its clips. Raises Refused (unknown or gone)."""
        if pair_id not in self._shown:
            self._shown[pair_id] = await self._threads.run(self._load, pair_id)
            if len(self._shown) > CACHED_PAIRS:
                self._shown.popitem(last=False)
        return self._shown[pair_id]

    async def sound(self, clip_id: str) -> Path:
        """The FLAC file of a clip. Raises Refused (unknown)."""
        return await self._threads.run(self._sound, clip_id)

    def forget(self) -> None:
        """Pairs may have been deleted: read them anew."""
        self._shown.clear()

    def needed_s(self, clip: Clip) -> float:
        """How much of a clip has to be heard."""
        return needed_seconds(self._heard, clip.seconds)

    async def vote(
        self, listener_id: str, offer: Offer | None, vote_id: str, pair_id: str, choice: Choice, a: Heard, b: Heard
    ) -> Receipt:
        """Raises Refused, with nothing stored, or Unavailable; then the same vote may be sent again."""
        shown = await self.shown(pair_id)
        if not self._is_offered(offer, listener_id, pair_id):
            earlier = await self._threads.run(self._log.vote_of, listener_id, pair_id)
            self._refuse_foreign(earlier is not None and earlier.vote_id == vote_id)
        played_a, played_b = self._played(shown, offer, a, b)
        vote = Vote(vote_id, pair_id, listener_id, choice, played_a, played_b, datetime.now(UTC))
        with self._meter.store_s.time():
            receipt = await self._threads.run(self._log.record_vote, vote)
        self._meter.votes.labels(choice.value).inc()
        return receipt

    async def rate(
        self,
        listener_id: str,
        offer: Offer | None,
        rating_id: str,
        pair_id: str,
        scores: tuple[int, int],
        a: Heard,
        b: Heard,
    ) -> Receipt:
        """As `vote`, for marks from 1 to 5."""
        shown = await self.shown(pair_id)
        if not self._is_offered(offer, listener_id, pair_id):
            earlier = await self._threads.run(self._log.rating_of, listener_id, pair_id)
            self._refuse_foreign(earlier is not None and earlier.rating_id == rating_id)
        played_a, played_b = self._played(shown, offer, a, b)
        rating = Rating(rating_id, pair_id, listener_id, *scores, played_a, played_b, datetime.now(UTC))
        with self._meter.store_s.time():
            receipt = await self._threads.run(self._log.record_rating, rating)
        self._meter.ratings.inc()
        return receipt

    def _sound(self, clip_id: str) -> Path:
        path = self._log.audio_path(clip_id)
        if not path.is_file():
            raise Refused(Reason.UNKNOWN, "clip_id", "no sound is there")
        return path

    def _load(self, pair_id: str) -> Shown:
        pair = self._log.pair(pair_id)
        return Shown(pair, (self._log.clip(pair.clip_a), self._log.clip(pair.clip_b)))

    def _is_offered(self, offer: Offer | None, listener_id: str, pair_id: str) -> bool:
        return offer is not None and (offer.listener_id, offer.pair_id) == (listener_id, pair_id)

    def _refuse_foreign(self, is_repeat: bool) -> None:
        """Unless the answer was stored before, and only its acknowledgement was lost."""
        if not is_repeat:
            raise Refused(Reason.CONFLICT, "pair_id", "this pair does not lie before you, ask for a new one")

    def _played(self, shown: Shown, offer: Offer | None, a: Heard, b: Heard) -> tuple[Played, Played]:
        """Raises Refused: a clip that is not the pair's, impossible ranges, too little heard, more than time passed."""
        played = [
            self._played_of(clip, heard, side) for clip, heard, side in zip(shown.clips, (a, b), "ab", strict=True)
        ]
        heard_s = sum(each.seconds for each in played)
        if offer is not None and offer.pair_id == shown.pair.pair_id:
            passed_s = self._clock() - offer.offered_at
            if heard_s > passed_s + CLOCK_SLACK_S:
                problem = f"got {heard_s:.1f} s heard, allowed the {max(0.0, passed_s):.1f} s since the pair was shown"
                raise Refused(Reason.INVALID, "played", problem)
        return played[0], played[1]

    def _played_of(self, clip: Clip, heard: Heard, side: str) -> Played:
        if heard.clip_id != clip.clip_id:
            raise Refused(Reason.INVALID, f"{side}.clip_id", "not the clip that this pair has on this side")
        played = heard_of(heard.ranges, clip.seconds, f"{side}.played")
        if played.seconds < self.needed_s(clip) - HEARD_SLACK_S:
            problem = f"got {played.seconds:.2f} s heard, allowed from {self.needed_s(clip):.2f} s"
            raise Refused(Reason.INVALID, f"{side}.played", problem)
        return played
