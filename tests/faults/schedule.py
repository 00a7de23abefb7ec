"""A schedule of faults: drawn from a seed, printed, drawn again. What happens when is a function of the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "pause", "slow", "hang", "fill", "lock", "cut", "flaky"]
LASTING = ("pause", "slow", "cut", "flaky")


@dataclass(frozen=True)
class Fault:
    """`kind` happens to `role` `delay_s` after step `step` was done, and lasts `lasts_s`.

    kill: SIGKILL. pause: SIGSTOP, later SIGCONT. slow: stopped five sixths of the time. hang: SIGSTOP, and nothing
    after it. fill, lock: the role is "disk", which is full to the last pages, or cannot be written to. cut: a
    "storage" or node that cannot be reached. flaky: a "storage" that fails a part of what it is asked. role: two of
    them with a + between are hit at once; "driver" is the whole program, "node" its raylet, "gcs" the cluster's
    head service, "machine" the driver with all that lies on its disk, "workers" a node of generators and scorers.
    chance: picks one of several actors of a role, and how much room a full disk has.
    """

    kind: Kind
    role: str
    step: int
    delay_s: float
    lasts_s: float = 0.0
    chance: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:g} s" if self.lasts_s else ""
        return f"{self.kind} {self.role}{lasting}, {self.delay_s:g} s after step {self.step}"


def draw(seed: int, steps: int, pairs: Sequence[tuple[Kind, str]], longest_s: float = 3.0) -> tuple[Fault, ...]:
    """One fault for each (kind, role) of `pairs`, in an order and at moments that `seed` says, spread over `steps`.

    longest_s: of a pause or a slow spell.
    """
    chance = random.Random(seed)
    order = chance.sample(list(pairs), len(pairs))
    every = 3 * steps / 4 / len(order)  # the last quarter is left alone: it is needed to notice them all
    return tuple(
        Fault(
            kind,
            role,
            step=int(every * place) + 1,
            delay_s=round(chance.uniform(0.0, 0.3), 3),
            lasts_s=round(chance.uniform(0.5, longest_s), 2) if kind in LASTING else 0.0,
            chance=round(chance.random(), 3),
        )
        for place, (kind, role) in enumerate(order)
    )
