"""What simulated listeners really think of each published policy: their hidden utility, on prompts that nothing has
learnt from. For measuring the loop only; no reward, gate or guard ever sees it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.storage import write_parquet_atomic
from evaluation.statistics import paired_gain
from feedback.loop_state import LoopState
from feedback.simulated_compare import CompareSettings, chosen_prompts, hear_policy, heard_table
from feedback.simulated_parameters import load_parameters

UTILITY = "simulated_utility"


def measure(state: LoopState, number: int) -> dict[str, Any]:
    """Hidden utility of the policy that a round ended with (0: that the loop began with) -> its mean, and the paired
    gains over the loop's first policy and over the round before."""
    version = state.newest(number + 1)
    table = heard_by_version(state, version)
    found: dict[str, Any] = {"version": version, "mean": float(table[UTILITY].to_numpy().mean()), "prompts": len(table)}
    if number:
        for name, other in (("gain", state.newest(1)), ("gain_of_round", state.newest(number))):
            gain = paired_gain(heard_by_version(state, other)[UTILITY].to_numpy(), table[UTILITY].to_numpy())
            found[name] = asdict(gain.gain)
        found |= _parts(state, table)
    return found


def heard_by_version(state: LoopState, version: str) -> pa.Table:
    """One clip a prompt of a published policy, the same noise for every version: `simulated_compare.heard_table`."""
    path = state.settings.folder / "simulated_utility" / f"{version}.parquet"
    if not path.exists():
        write_parquet_atomic(path, _listen(state, version))
    return pq.read_table(path)


def _listen(state: LoopState, version: str) -> pa.Table:
    s = state.settings
    torch.set_num_threads(s.jobs)
    chosen = CompareSettings(
        prompts=s.eval_prompts,
        skip=s.skip,
        n=s.n,
        seconds=s.seconds,
        seed=s.seed,
        codec=s.codec,
        listeners=s.panel_file,
    )
    prompts, parameters = chosen_prompts(chosen), load_parameters(s.panel_file)
    heard = hear_policy(Path(state.published.directory(version)), prompts, parameters, chosen)
    return heard_table({version: heard}, prompts, parameters)


def _parts(state: LoopState, table: pa.Table) -> dict[str, Any]:
    """Gains over the first policy of what the utility is made of, and of each group's."""
    first = heard_by_version(state, state.newest(1))
    names = [name for name in table.column_names if name.startswith(f"{UTILITY}_")] + ["adherence", "quality"]
    return {
        "parts": {
            name: asdict(paired_gain(first[name].to_numpy(), table[name].to_numpy(), resamples=2000).gain)
            for name in names
        }
    }
