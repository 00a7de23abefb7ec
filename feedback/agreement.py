"""How far listeners agree, as a figure that may be asked for often."""

from __future__ import annotations

import math

from feedback.errors import Unavailable
from feedback.preference_log import PreferenceLog
from feedback.sessions import Clock
from feedback.summary import agreement

EVERY_S = 300.0  # every vote is read for it


class AgreementShare:
    """Of each two answers to one pair, the share that prefers the same clip; NaN while there are none.

    Measured anew when it is asked for and older than five minutes. It blocks, so it belongs in a thread of its own.
    """

    def __init__(self, log: PreferenceLog, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._measured_at = -math.inf
        self._share = math.nan

    def __call__(self) -> float:
        now = self._clock()
        if now - self._measured_at >= EVERY_S:
            self._measured_at = now
            try:
                agreeing, compared = agreement((vote.pair_id, vote.choice) for vote in self._log.votes(study=""))
            except Unavailable:  # the last figure stands
                return self._share
            self._share = agreeing / compared if compared else math.nan
        return self._share
