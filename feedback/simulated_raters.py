"""Simulated raters: they hear the clips of two systems for one prompt and mark each from 1 to 5.

    mark = 1 + number of cuts below  u_r(clip, prompt) + first + noise · normal

u_r weighs adherence, quality and taste alike, as raters are told to; what they hear is the waveform, phase and all.
Source: MusicRL section 4.3 (three raters a pair, who weigh text adherence, quality and appeal together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from evaluation.rating_table import SCHEMA
from feedback.records import ListenerKind
from feedback.simulated_panel import Panel, draw_panel, utilities
from feedback.simulated_parameters import Parameters
from feedback.simulated_utility import Heard

PANEL_RATERS = 60  # raters of whom each pair gets some
RATERS_OF_A_PAIR = 3


def draw_raters(parameters: Parameters, seed: int, count: int = PANEL_RATERS) -> Panel:
    """Careful listeners with the raters' weights."""
    return draw_panel(parameters, seed, count, parameters.raters)


def simulated_ratings(
    heard: Mapping[str, Heard],
    prompts: Sequence[str],
    parameters: Parameters,
    seed: int,
    raters: int = RATERS_OF_A_PAIR,
) -> pa.Table:
    """Every pair of systems on every prompt, marked by `raters` different raters in random order.

    heard: system -> what is heard of its clip for each of `prompts`. -> rating_table.SCHEMA.
    """
    panel = draw_raters(parameters, seed)
    worth = {system: utilities(panel, clips) for system, clips in heard.items()}  # [P, L] each
    rng = np.random.default_rng((seed, 4103))
    tables = [
        _duel_ratings((one, other), (worth[one], worth[other]), prompts, panel, raters, seed, rng)
        for one, other in combinations(heard, 2)
    ]
    return pa.concat_tables(tables)


def _duel_ratings(
    systems: tuple[str, str],
    worth: tuple[np.ndarray, np.ndarray],
    prompts: Sequence[str],
    panel: Panel,
    raters: int,
    seed: int,
    rng: np.random.Generator,
) -> pa.Table:
    """The sides change from rating to rating, so that each system is first as often as the other."""
    (one, other), (worth_one, worth_other) = systems, worth
    names = panel.names
    rows = []
    for number, prompt in enumerate(prompts):
        chosen = rng.choice(len(panel), size=raters, replace=False)
        swapped = (np.arange(raters) + number) % 2 == 1
        first = np.where(swapped, worth_other[number, chosen], worth_one[number, chosen])
        second = np.where(swapped, worth_one[number, chosen], worth_other[number, chosen])
        score_a = marks_of(first + panel.first[chosen], panel.parameters, rng)
        score_b = marks_of(second, panel.parameters, rng)
        for place, rater in enumerate(chosen):
            sides = (other, one) if swapped[place] else (one, other)
            rating_id = f"simulated-{seed}-{one}-{other}-{number:04d}-{place}"
            marks = (int(score_a[place]), int(score_b[place]))
            rows.append((rating_id, prompt, *sides, names[rater], ListenerKind.SIMULATED.value, *marks))
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def marks_of(worth: np.ndarray, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    """Utilities [R] with the raters' noise -> marks 1 to 5, [R] int64."""
    felt = worth + parameters.raters.noise * rng.standard_normal(len(worth))
    return 1 + np.searchsorted(parameters.raters.cuts, felt)
