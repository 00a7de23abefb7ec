"""A schedule of faults: drawn from a seed, printed, drawn again. What happens when is a function of the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`kind` happens to `role` `delay_s` after step `step` was done, and lasts `lasts_s`."""

    kind: str  # "kill" | "pause" | "slow"
    role: str
    step: int
    delay_s: float
    lasts_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:g} s" if self.lasts_s else ""
        return f"{self.kind} {self.role} after step {self.step} + {self.delay_s:g} s{lasting}"


def draw(seed: int, steps: int, pairs: Sequence[tuple[str, str]], longest_s: float = 3.0) -> tuple[Fault, ...]:
    """One fault for each (kind, role) of `pairs`, in an order and at moments that `seed` says, spread over `steps`.

    longest_s: of a pause or a slow spell.
    """
    chance = random.Random(seed)
    order = chance.sample(list(pairs), len(pairs))
    every = (steps - 2) / len(order)  # the last steps are left alone: a fault needs a step after it to be noticed in
    return tuple(
        Fault(
            kind,
            role,
            step=int(every * place) + 1,
            delay_s=round(chance.uniform(0.0, 0.3), 3),
            lasts_s=0.0 if kind == "kill" else round(chance.uniform(0.5, longest_s), 2),
        )
        for place, (kind, role) in enumerate(order)
    )
