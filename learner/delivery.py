"""The newest weights into the hands of whoever asks for them, whatever happens to a single publication on its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cluster.errors import RunFailed
from cluster.weight_bus import CorruptWeights, Publication, Superseded
from learner.pools import Newest, Pool

logger = logging.getLogger(__name__)
Used = TypeVar("Used")

ATTEMPTS = 5
LATER_S = 0.1  # until the newer publication, which the learner has made, is known here


async def use_newest(newest: Newest, learner: Pool, use: Callable[[Publication], Awaitable[Used]]) -> Used:
    """What `use` returns for the newest publication. A damaged one is counted, and the learner publishes again; one
    that can no longer be fetched is followed by the one that took its place.

    Raises RunFailed after `ATTEMPTS`, and whatever else `use` raises.
    """
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        publication = newest.publication
        assert publication is not None
        try:
            return await use(publication)
        except Superseded as error:
            last = error
            await asyncio.sleep(LATER_S)
        except CorruptWeights as error:
            last = error
            newest.refused += 1
            logger.warning("%s; the learner publishes again", str(error).splitlines()[-1])
            if newest.publication is publication:  # nobody else has asked meanwhile
                newest.publication = await learner.call("publish", True)
    raise RunFailed(f"weights: not delivered in {ATTEMPTS} attempts, the last time: {last}")
