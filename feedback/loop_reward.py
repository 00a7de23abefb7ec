"""One round's reward: the preference model retrained on what listeners said, and the gate that decides if it serves.

    onwards     from the weights of the version that serves, on the round's votes and as many earlier ones (`replay`)
    fresh       from the policy's weights, on all votes so far

Held-out votes are those of all rounds either way: by their prompts' hash, so that no version has learnt from them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.storage import write_parquet_atomic
from feedback.loop_settings import NO_GATE
from feedback.loop_state import LoopState
from feedback.loop_tuning import with_words
from feedback.loop_votes import earlier_votes, votes_path
from rewards.preference import Preference
from rewards.preference_figures import Share, accuracy, clustered_share, hits
from rewards.preference_measure import difference_of
from rewards.preference_pairs import PairSet, pairs_of_table
from rewards.preference_split import held_out_prompts, split_of
from rewards.preference_train import read_training

SHAPE = ("pooling", "hidden", "text")  # settings that the weights depend on
ONWARDS_WORDS = ("learning_rate=1e-4", "head_learning_rate=3e-4")  # a third of what starts anew


def retrain(state: LoopState, number: int) -> dict[str, Any]:
    """Trains, registers and judges a version -> which one serves from now on, and how well each foretells new votes."""
    s, out = state.settings, state.folder(number) / "preference"
    serving = state.serving(number - 1)
    votes = learning_table(state, number)
    write_parquet_atomic(state.folder(number) / "learn.parquet", votes)
    onwards = serving and s.learn == "onwards"
    start = onwards_words(state, serving) if onwards else []
    gate = [] if s.gate == NO_GATE else [f"gate={s.gate}", f"margin={s.margin}"]
    words = [
        *(f"pairs={state.folder(number) / 'learn.parquet'}", f"policy={s.base}", f"out={out}", f"seed={s.seed}"),
        *(f"registry={state.registry.place}", f"parent={serving}", *gate),
        *("workers=0", f"threads={s.jobs}", *start),
    ]
    line = ["rewards.train", "preference", *with_words(words, s.preference_words)]
    state.ledger.command(f"round {number} preference", line)
    version = str(read_training(out)["version"])
    entry = state.registry.entry(version)
    if s.gate == NO_GATE:
        entry = state.registry.judge(version, True, "no gate was asked for", entry.verdict)
    if entry.status == "passed" and state.registry.current_version != version:
        state.registry.serve(version)  # killed between the gate's answer and its effect
    return {
        "version": version,
        "status": entry.status,
        "reason": entry.reason,
        "serving": version if entry.status == "passed" else serving,
        "votes": entry.votes,
        "data": entry.data,
        **foretold(state, number, serving, version),
    }


def onwards_words(state: LoopState, serving: str) -> list[str]:
    """The weights of a version to go on from, in a network of its shape."""
    shape = state.registry.entry(serving).settings
    same = [f"{name}={str(shape[name]).lower()}" for name in SHAPE if name in shape]
    return [f"start={state.registry.directory(serving)}", *same, *ONWARDS_WORDS]


def learning_table(state: LoopState, number: int) -> pa.Table:
    """The votes of a round and, of those before it, the held-out ones and the ones that are replayed (or all)."""
    new, earlier = pq.read_table(votes_path(state, number)), earlier_votes(state, number)
    if state.settings.learn == "fresh" or not state.serving(number - 1) or not len(earlier):
        return pa.concat_tables([earlier, new])
    prompts = earlier["prompt"].to_pylist()
    kept_out = set(held_out_prompts(sorted(set(prompts))))
    held_out = np.array([prompt in kept_out for prompt in prompts])
    wanted = min(round(state.settings.replay * len(new)), int((~held_out).sum()))
    lots = np.array([_lot(vote_id, number) for vote_id in earlier["vote_id"].to_pylist()], dtype=object)
    drawn = sorted(np.flatnonzero(~held_out), key=lambda row: lots[row])[:wanted]
    rows = np.sort(np.concatenate([np.flatnonzero(held_out), np.array(drawn, np.int64)]))
    return pa.concat_tables([earlier.take(pa.array(rows)), new])


def foretold(state: LoopState, number: int, before: str, after: str) -> dict[str, Any]:
    """Accuracy of the version that served and of the new one on the round's held-out votes, and the paired gain."""
    torch.set_num_threads(state.settings.jobs)
    pairs = pairs_of_table(pq.read_table(votes_path(state, number)))
    pairs = pairs.take(split_of(pairs, "held_out") & pairs.decided)
    if not len(pairs):
        return {}
    ours = _difference(state, after, pairs)
    found = {"accuracy": asdict(accuracy(ours, pairs))}
    if before:
        theirs = _difference(state, before, pairs)
        gain: Share = clustered_share(hits(ours, pairs.choices) - hits(theirs, pairs.choices), pairs.prompts)
        found |= {"accuracy_before": asdict(accuracy(theirs, pairs)), "accuracy_gain": asdict(gain)}
    return found


def _difference(state: LoopState, version: str, pairs: PairSet) -> np.ndarray:
    return difference_of(Preference.load(Path(state.registry.directory(version))), pairs)


def _lot(vote_id: str, number: int) -> str:
    """Decides which earlier votes are replayed in a round: the same ones whenever it is asked."""
    return hashlib.sha256(f"{number}\x1f{vote_id}".encode("utf-8", errors="replace")).hexdigest()
