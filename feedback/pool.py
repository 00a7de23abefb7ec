"""Pairs made ahead, each offered to a few different listeners."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from feedback.records import Pair

KEPT_PER_FRESH = 8  # pairs that wait for a further listener, for each one that is kept fresh


@dataclass
class _Entry:
    pair: Pair
    offered_to: set[str] = field(default_factory=set)


class Pool:
    """Fresh pairs, and those that somebody has had but that may have more listeners.

    size: fresh pairs to keep. listeners: how many different ones a pair is offered to.
    """

    def __init__(self, size: int, listeners: int) -> None:
        self.size, self._listeners = size, listeners
        self._fresh: OrderedDict[str, _Entry] = OrderedDict()
        self._offered: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Fresh pairs."""
        return len(self._fresh)

    @property
    def lacks(self) -> int:
        """Fresh pairs to be made."""
        return max(0, self.size - len(self))

    def add(self, pair: Pair, offered_to: str | None = None) -> None:
        """offered_to: the listener for whom it was made, if there is one."""
        entry = _Entry(pair)
        if offered_to is None:
            self._fresh[pair.pair_id] = entry
        else:
            self._offer(entry, offered_to)

    def clear(self) -> None:
        """Forgets every pair; those that lie before listeners are theirs still."""
        self._fresh.clear()
        self._offered.clear()

    def take(self, listener_id: str, prompt: str | None = None) -> Pair | None:
        """A pair that this listener has not had, of `prompt` if one is named; None where there is none.

        Those that somebody else has had come first: two answers to one pair say how far listeners agree.
        """
        for entry in (*self._offered.values(), *self._fresh.values()):
            if listener_id not in entry.offered_to and prompt in (None, entry.pair.prompt):
                self._offer(entry, listener_id)
                return entry.pair
        return None

    def answered(self, listener_id: str, pair_id: str) -> None:
        """The listener has had this pair, offered perhaps before the app was restarted: it is not offered again."""
        entry = self._fresh.get(pair_id) or self._offered.get(pair_id)
        if entry is not None and listener_id not in entry.offered_to:
            self._offer(entry, listener_id)

    def prompts(self, listener_id: str | None = None) -> list[str]:
        """Of the pairs that this listener has not had, or of all."""
        entries = (*self._offered.values(), *self._fresh.values())
        found = [entry.pair.prompt for entry in entries if listener_id is None or listener_id not in entry.offered_to]
        return list(dict.fromkeys(found))

    def _offer(self, entry: _Entry, listener_id: str) -> None:
        pair_id = entry.pair.pair_id
        entry.offered_to.add(listener_id)
        self._fresh.pop(pair_id, None)
        self._offered.pop(pair_id, None)
        if len(entry.offered_to) < self._listeners:
            self._offered[pair_id] = entry
        while len(self._offered) > KEPT_PER_FRESH * self.size:
            self._offered.popitem(last=False)
