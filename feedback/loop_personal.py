"""Heads for groups and listeners who allow it, and a policy for one group where its head foretells better.

A head is fitted to at most 300 votes of those who chose "for me" (simulated listeners all do). It may serve only where
the whole 95 % interval of its gain in accuracy over the shared model, on votes that neither has learnt from, lies above
zero. Most do not: that is noted, and the shared reward stays theirs.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedback.loop_state import LoopState
from feedback.loop_tuning import run_on
from feedback.loop_votes import CHOICES_DECIDED, earlier_votes, open_log, votes_path
from feedback.reader import listener_hash
from feedback.records import Consent
from rewards.preference import Preference
from rewards.preference_gate import FEWEST_VOTES
from rewards.preference_pairs import PairSet, pairs_of_table
from rewards.preference_personal import FOLDER, NAME, PersonalReward, fit_personal, personal_gain, save_personal
from rewards.preference_split import split_of

FEWEST_OF_ONE = 100  # decided votes of a group or listener below which nothing is fitted
SHOWN_HASH = 16  # hex digits by which a listener's head is called: no pseudonym outlives its deletion in a report
SMALL_SHARE = 0.3  # of the prompts, to judge a head on where the shared model's held-out votes are too few


def fit_heads(state: LoopState, number: int) -> dict[str, Any]:
    """Heads on the model that serves -> for each group and listener with enough votes, its gain and if it may serve."""
    serving = state.serving(number)
    if not serving:
        return {"heads": {}}
    place = Path(state.registry.directory(serving))
    shutil.rmtree(place / FOLDER, ignore_errors=True)  # fitted anew, to the votes that are still there
    shared, votes = Preference.load(place), consenting_votes(state, number)
    found = {}
    for column in ("group", "listener"):
        for whose in _with_enough(votes, column):
            name = whose if column == "group" else listener_hash(whose)[:SHOWN_HASH]
            own = votes.filter(pc.equal(votes[column], whose))
            found[f"{column} {name}"] = _head(place, shared, own, name, state.settings.seed)
    return {"heads": found}


def consenting_votes(state: LoopState, number: int) -> pa.Table:
    """All votes so far of listeners who allow a model of their own taste."""
    votes = pa.concat_tables([earlier_votes(state, number), pq.read_table(votes_path(state, number))])
    if state.settings.simulated:
        return votes
    with open_log(state) as log, log.snapshot() as reader:
        allow = [who.listener_id for who in reader.listeners() if who.consent is Consent.PERSONAL]
    return votes.filter(pc.is_in(votes["listener"], value_set=pa.array(allow, pa.string())))


def tune_group(state: LoopState, number: int) -> dict[str, Any]:
    """A run on the head of `group=`, from the same policy as everybody's; nothing where that head may not serve."""
    group = state.settings.group
    head = state.found(number, "personal")["heads"].get(f"group {group}")
    if head is None or not head["serves"]:
        why = head["reason"] if head else "too few votes of those who allow it"
        return {"skipped": f"{group}: {why}; the shared policy stays theirs"}
    return run_on(state, number, state.folder(number) / "run_group", head["checkpoint"])


def publish_group(state: LoopState, number: int) -> dict[str, Any]:
    """The group's policy beside everybody's."""
    tuned, group = state.found(number, "tune group"), state.settings.group
    if "skipped" in tuned or tuned["step"] == 0:
        return {"version": "", "published": False}
    head = state.found(number, "personal")["heads"][f"group {group}"]
    facts = {"round": number, "run": tuned["run"], "step": tuned["step"], "preference": head["checkpoint"]}
    parent = state.found(number, "collect")["tuned_from"]
    entry = state.published.publish(tuned["policy"], parent, group, facts)
    return {"version": entry.version, "published": True}


def _with_enough(votes: pa.Table, column: str) -> list[str]:
    decided = votes.filter(pc.is_in(votes["choice"], value_set=pa.array(CHOICES_DECIDED)))
    counts = Counter(decided[column].to_pylist())
    names = sorted(name for name, count in counts.items() if count >= FEWEST_OF_ONE and name)
    return [name for name in names if column == "listener" or NAME.fullmatch(name)]


def _head(place: Path, shared: Preference, votes: pa.Table, name: str, seed: int) -> dict[str, Any]:
    """Fits, judges, keeps the head only if it may serve."""
    pairs = pairs_of_table(votes)
    judged = _judged(pairs)
    head = fit_personal(shared, pairs.take(~judged), seed)
    folder = save_personal(place, name, head, shared, pairs.take(~judged))
    gain = personal_gain(PersonalReward.load(folder), pairs.take(judged))["gain"]
    serves = bool(gain["low"] > 0)
    if not serves:
        shutil.rmtree(folder)
    interval = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] on {gain['n']} votes"
    return {
        "votes": head.votes,
        "penalty": head.penalty,
        "gain": gain,
        "serves": serves,
        "reason": f"{'better' if serves else 'not surely better'} than the shared model: {interval}",
        "checkpoint": str(folder) if serves else "",
    }


def _judged(pairs: PairSet) -> np.ndarray:
    """[P] bool: votes on which a head is judged; the shared model has not learnt from them where these are enough."""
    held_out = split_of(pairs, "held_out")
    if int((held_out & pairs.decided).sum()) >= FEWEST_VOTES:
        return held_out
    return split_of(pairs, "held_out", held_out=SMALL_SHARE, valid=0.0)
