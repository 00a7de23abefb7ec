"""Who rates what in a side-by-side evaluation: every pair gets its raters, evenly, and both orders of its clips."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from feedback.records import Pair

LEASE_S = 30 * 60.0  # so long a pair is kept for a listener who was given it


@dataclass
class StudyItem:
    """Two clips of a prompt; `pairs` are its two orders."""

    pairs: tuple[Pair, Pair]
    raters: dict[str, int] = field(default_factory=dict)  # listener -> order they rated
    leases: dict[str, tuple[int, float]] = field(default_factory=dict)  # listener -> order they were given, until when

    def drop_old_leases(self, now: float) -> None:
        self.leases = {who: lease for who, lease in self.leases.items() if lease[1] > now}

    @property
    def taken(self) -> int:
        """Raters it has, or will have when who was given it comes back."""
        return len(self.raters) + len(self.leases)

    def in_order(self, order: int) -> int:
        return [*self.raters.values(), *(order for order, _ in self.leases.values())].count(order)


@dataclass(frozen=True)
class Standing:
    """Where a listener is in a study."""

    rated: int
    open: int  # pairs that still lack raters and that this listener has not rated


class RatingDesk:
    """Gives each listener the next pair. A pair is held for who was given it for half an hour.

    raters: listeners that each pair gets. rng and clock are injected by tests.
    """

    def __init__(
        self, raters: int, rng: random.Random | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._raters, self._rng, self._clock = raters, rng or random.SystemRandom(), clock
        self._items: list[StudyItem] = []
        self._place: dict[str, tuple[StudyItem, int]] = {}  # pair id -> its item and order

    def __len__(self) -> int:
        return len(self._items)

    def add(self, forward: Pair, backward: Pair) -> None:
        """An item in both orders of its clips."""
        item = StudyItem((forward, backward))
        self._items.append(item)
        self._place |= {pair.pair_id: (item, order) for order, pair in enumerate(item.pairs)}

    def draw(self, listener_id: str) -> Pair | None:
        """The pair that this listener holds, or else one of those with the fewest raters, in the order that was shown
        less often; None where all have theirs."""
        held = self._held(listener_id)
        if held is not None:
            return held
        open_items = self._open_items(listener_id)
        if not open_items:
            return None
        fewest = min(item.taken for item in open_items)
        item = self._rng.choice([item for item in open_items if item.taken == fewest])
        order = self._order_for(item)
        item.leases[listener_id] = (order, self._clock() + LEASE_S)
        return item.pairs[order]

    def rated(self, listener_id: str, pair_id: str) -> None:
        """Takes note of a rating that is in the log."""
        if pair_id in self._place:
            item, order = self._place[pair_id]
            item.leases.pop(listener_id, None)
            item.raters[listener_id] = order

    def forget(self, listener_id: str) -> None:
        """A listener had themselves deleted: their pairs need other raters."""
        for item in self._items:
            item.raters.pop(listener_id, None)
            item.leases.pop(listener_id, None)

    def standing(self, listener_id: str) -> Standing:
        rated = sum(listener_id in item.raters for item in self._items)
        held = int(self._held(listener_id) is not None)
        return Standing(rated, held + len(self._open_items(listener_id)))

    @property
    def is_full(self) -> bool:
        """Every item has its raters."""
        return bool(self._items) and all(len(item.raters) >= self._raters for item in self._items)

    def ratings(self) -> list[int]:
        """How many raters each item has."""
        return [len(item.raters) for item in self._items]

    def _held(self, listener_id: str) -> Pair | None:
        now = self._clock()
        for item in self._items:
            item.drop_old_leases(now)
            if listener_id in item.leases:
                return item.pairs[item.leases[listener_id][0]]
        return None

    def _open_items(self, listener_id: str) -> list[StudyItem]:
        now = self._clock()
        for item in self._items:
            item.drop_old_leases(now)
        return [
            item
            for item in self._items
            if item.taken < self._raters and listener_id not in item.raters and listener_id not in item.leases
        ]

    def _order_for(self, item: StudyItem) -> int:
        """The order that this item, then the whole study, has had less often."""
        for counts in (
            [item.in_order(order) for order in (0, 1)],
            [sum(each.in_order(order) for each in self._items) for order in (0, 1)],
        ):
            if counts[0] != counts[1]:
                return int(counts[1] < counts[0])
        return self._rng.randrange(2)
