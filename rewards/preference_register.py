"""A trained version into the registry and through the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rewards.preference import Preference
from rewards.preference_gate import may_serve
from rewards.preference_measure import difference_of
from rewards.preference_pairs import PairSet
from rewards.preference_registry import Entry, Registry
from rewards.preference_split import split_of


def register(
    directory: str | Path,
    pairs: PairSet,
    registry: Registry,
    rule: str = "above",
    margin: float = 0.01,
    parent: str = "",
) -> Entry:
    """Enters the model in `directory`, judges it on the held-out votes of `pairs`, and serves it if it passes.

    pairs: votes that it was trained on or others; only those are used that by their hash are held out from this version
    and from the current one. A version that was judged before is not judged again. -> its entry.
    """
    entry = registry.add(directory, parent)
    if entry.status != "candidate":
        return entry
    model, versions = Preference.load(registry.directory(entry.version)), [entry]
    current = registry.current_version
    if current:
        versions.append(registry.entry(current))
    held_out = pairs.take(unseen(pairs, versions))
    theirs = difference_of(Preference.load(registry.directory(current)), held_out) if current else None
    verdict = may_serve(difference_of(model, held_out), theirs, held_out, rule, margin)
    return registry.judge(entry.version, verdict.passed, verdict.reason, verdict.as_dict())


def unseen(pairs: PairSet, versions: list[Entry]) -> np.ndarray:
    """[P] bool: votes held out from every one of the versions."""
    rows = np.ones(len(pairs), dtype=bool)
    for entry in versions:
        settings = entry.settings
        rows &= split_of(pairs, "held_out", settings["split_by"], settings["held_out"], settings["valid"])
    return rows
