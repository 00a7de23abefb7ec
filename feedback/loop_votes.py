"""One round's votes: of simulated listeners, or of people through the listening app's log.

Half of the pairs are two clips of the newest policy: the next reward is asked to tell apart what that policy plays,
which it has never heard when it learnt from another's clips. In the other half one clip is of the version before: those
votes say whether the last round helped (and send the loop back where it did harm), and keep the reward's scale across
versions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import RunFailed, UserError
from cluster.storage import write_parquet_atomic, write_text_atomic
from configs.prompts import load_prompts
from feedback.database import parse_url
from feedback.loop_settings import vote_files
from feedback.loop_state import LoopState
from feedback.preference_log import PreferenceLog
from feedback.records import Consent
from feedback.simulated_pairs import heard_votes
from rewards.preference_figures import Share, clustered_share
from rewards.preference_pairs import SCHEMA
from rewards.preference_split import held_out_prompts

CHOICES_DECIDED = ("a", "b")


def collect(state: LoopState, number: int) -> dict[str, Any]:
    """A round's votes into votes.parquet (all that the round added) -> how many, and how the newest policy fared."""
    gather = _simulated if state.settings.simulated else _from_log
    votes = gather(state, number)
    newest, before = state.newest(number), state.before(number)
    wins = wins_of(votes, newest, before)
    lost = newest != before and wins.high < 0.5
    return {
        "new": len(votes),
        "newest": newest,
        "before": before,
        "wins": wins.value,
        "wins_low": wins.low,
        "wins_high": wins.high,
        "compared": wins.n,
        "tuned_from": before if lost else newest,
    }


def votes_path(state: LoopState, number: int) -> Path:
    """The votes that a round added."""
    return state.folder(number) / "votes.parquet"


def earlier_votes(state: LoopState, number: int) -> pa.Table:
    """Every vote from before a round: those that the loop was given, and those of its earlier rounds."""
    files = [*vote_files(state.settings), *(votes_path(state, n) for n in range(1, number))]
    tables = [pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA) for file in files]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def wins_of(votes: pa.Table, newest: str, before: str) -> Share:
    """Share of the decided votes between the two policies that the newest one won, over resampled prompts."""
    decided = votes.filter(pc.is_in(votes["choice"], value_set=pa.array(CHOICES_DECIDED)))
    players = [_versions(decided[name].to_pylist()) for name in ("policy_a", "policy_b")]
    took_a = decided["choice"].to_numpy(zero_copy_only=False) == "a"
    as_a = (players[0] == newest) & (players[1] == before)
    as_b = (players[1] == newest) & (players[0] == before)
    rows = (as_a | as_b) & (newest != before)
    won = np.where(as_a, took_a, ~took_a)[rows].astype(np.float64)
    prompts = decided["prompt"].to_numpy(zero_copy_only=False)[rows]
    return clustered_share(won, prompts)


def _versions(policies: Sequence[str]) -> np.ndarray:
    """The content hash in each name: VERSION@TEMPERATURE of simulated pairs, NAME@VERSION of the app's."""
    return np.array([_version(name) for name in policies], dtype=object)


def _version(policy: str) -> str:
    first, _, second = policy.partition("@")
    return second if len(second) == 12 else first


def _simulated(state: LoopState, number: int) -> pa.Table:
    """Two tables: pairs of prompts to learn from, and, a larger share than chance would give, of held-out ones."""
    prompts = load_prompts(state.settings.prompts, field="prompts")
    kept_out = set(held_out_prompts(prompts))
    judged = round(state.settings.votes_per_round * state.settings.judged) if kept_out else 0
    parts = []
    for place, (name, own, pairs) in enumerate(
        (
            (
                "learn",
                [prompt for prompt in prompts if prompt not in kept_out],
                state.settings.votes_per_round - judged,
            ),
            ("judge", [prompt for prompt in prompts if prompt in kept_out], judged),
        )
    ):
        if pairs and own:
            parts.append(_simulated_part(state, number, place, name, own, pairs))
    votes = heard_votes(pa.concat_tables(parts))
    write_parquet_atomic(votes_path(state, number), votes)
    return votes


def _simulated_part(state: LoopState, number: int, place: int, name: str, prompts: list[str], pairs: int) -> pa.Table:
    s, folder = state.settings, state.folder(number)
    listed = folder / f"prompts_{name}.txt"
    write_text_atomic(listed, "\n".join(prompts) + "\n")
    newest, before = state.newest(number), state.before(number)
    other = [f"other={state.published.directory(before)}", f"other_share={1 - s.own:g}"]
    words = {
        "out": folder / f"simulated_{name}.parquet",
        "policy": state.published.directory(newest),
        "codec": s.codec,
        "prompts": listed,
        "pairs": pairs,
        "seconds": s.seconds,
        "seed": 1000 * s.seed + 10 * number + place,  # of clips and votes: another in each table
        "panel_seed": s.panel_seed or s.seed,
        "agreement": s.agreement,
        "workers": s.jobs,
        "listeners": s.panel_file,
    }
    more = other if newest != before and s.own < 1 else []
    line = ["feedback.simulated_pairs", *(f"{key}={value}" for key, value in words.items()), *more]
    state.ledger.command(f"round {number} {name} pairs", line)
    return pq.read_table(folder / f"simulated_{name}.parquet")


def _from_log(state: LoopState, number: int) -> pa.Table:
    """Waits for enough new votes of people who let shared models learn from them, then takes every one there is."""
    from feedback.training_table import export_pairs

    known = set(earlier_votes(state, number)["vote_id"].to_pylist())
    with open_log(state) as log:
        _await_votes(state, number, log, known)
        everything = state.folder(number) / "log.parquet"
        export_pairs(log, everything, consent=Consent.TRAIN, study="", versions=True)
    _forget_deleted(state, number, set(pq.read_table(everything, columns=["vote_id"])["vote_id"].to_pylist()))
    table = pq.read_table(everything)
    votes = table.filter(pc.invert(pc.is_in(table["vote_id"], value_set=pa.array(sorted(known), pa.string()))))
    write_parquet_atomic(votes_path(state, number), votes)
    everything.unlink()
    return votes


def open_log(state: LoopState) -> PreferenceLog:
    """The app's log. Raises UserError where a SQLite file would have to be made."""
    url = parse_url(state.settings.log)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise UserError(f"log: got {state.settings.log}, where there is no log yet; start the listening app first")
    return PreferenceLog.open(state.settings.log, state.settings.audio_dir or None)


def _await_votes(state: LoopState, number: int, log: PreferenceLog, known: set[str]) -> None:
    """Returns when the log holds enough new votes. Raises RunFailed after `wait_hours`."""
    s, shown = state.settings, -1
    until = time.monotonic() + 3600 * s.wait_hours
    while (there := len(_teaching(log) - known)) < s.votes_per_round:
        if there != shown:
            print(f"loop: round {number}: {there} of {s.votes_per_round} new votes", flush=True)
            shown = there
        if time.monotonic() > until:
            raise RunFailed(
                f"collect: {there} of {s.votes_per_round} new votes in {s.wait_hours:g} h; the same command waits on"
            )
        time.sleep(min(s.poll_s, max(0.0, until - time.monotonic()) + 0.1))


def _teaching(log: PreferenceLog) -> set[str]:
    """Ids of the votes of free use whose listeners let shared models learn from them."""
    with log.snapshot() as reader:
        counting = {who.listener_id for who in reader.listeners() if who.consent is Consent.COUNT}
        return {vote.vote_id for vote in reader.votes(study="") if vote.listener_id not in counting}


def _forget_deleted(state: LoopState, number: int, there: set[str]) -> None:
    """Votes that were deleted, or whose listeners take their consent back, leave the files of earlier rounds, too."""
    for earlier in range(1, number):
        path = votes_path(state, earlier)
        table = pq.read_table(path)
        kept = table.filter(pc.is_in(table["vote_id"], value_set=pa.array(sorted(there), pa.string())))
        if len(kept) < len(table):
            write_parquet_atomic(path, kept)
