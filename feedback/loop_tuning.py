"""One round's fine-tuning: a watched run of reinforcement learning on the reward that serves; its policy is published.

The run starts from the policy that listeners hear. Its KL anchor is that policy as well (`anchor=newest`): each round
may go as far from the last one as MusicRL-RU goes from R, no further, and a reward is only trusted near the clips that
it has learnt from, which are that policy's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cluster.errors import RunFailed
from evaluation.guard import FILE_NAME as ALARMS
from evaluation.main import newest_policy
from feedback.loop_state import LoopState
from feedback.published import EVERYBODY


def tune(state: LoopState, number: int) -> dict[str, Any]:
    """The round's run, begun or gone on with -> which checkpoint is kept, and what the guard said."""
    serving = state.serving(number)
    if not serving:
        raise RunFailed(
            "tune: no preference model serves yet, the gate refused the first; more votes_per_round, or gate="
        )
    return run_on(state, number, state.folder(number) / "run", f"registry:{state.registry.place}@{serving}")


def run_on(state: LoopState, number: int, place: Path, reward: str) -> dict[str, Any]:
    """A run in `place` on the preference model `reward`. Raises RunFailed."""
    s, name = state.settings, f"round {number} {place.name}"
    if any(place.glob("checkpoints/step_*/manifest.json")):
        state.ledger.command(name, ["learner.main", f"run.resume={place}"])
        return outcome(place)
    shutil.rmtree(place, ignore_errors=True)  # stopped before its first checkpoint
    start = state.tuned_from(number)
    anchor = {"newest": start, "start": state.start()["policy"], "base": state.start()["base"]}[s.anchor]
    second = [f"guard.second_preference={s.second_preference}"] if s.second_preference else []
    words = [
        *("preset=tiny_ru", f"run.dir={place}", f"run.seed={1000 * s.seed + number}"),
        *(
            f"policy.checkpoint={state.published.directory(start)}",
            f"policy.reference={state.published.directory(anchor)}",
        ),
        *(f"rewards.preference.checkpoint={reward}", f"codec.checkpoint={s.codec}", f"sampling.seconds={s.seconds:g}"),
        *(f"prompts.train={s.prompts}", f"prompts.eval={s.eval_prompts}", "metrics.progress=lines"),
        *("guard.stop_on_alarm=true", *second),
    ]
    state.ledger.command(name, ["learner.main", *with_words(words, s.run_words)])
    return outcome(place)


def with_words(words: list[str], more: str) -> list[str]:
    """`words` and the user's own, which take the place of those with the same key."""
    own = more.split()
    given = {word.partition("=")[0] for word in own}
    return [*(word for word in words if word.partition("=")[0] not in given), *own]


def outcome(place: Path) -> dict[str, Any]:
    """What a finished run leaves: its last checkpoint, or where the guard rang the one that it proposes."""
    newest = newest_policy(place)
    if newest is None:
        raise RunFailed(f"tune: no complete checkpoint in {place}")
    watched = json.loads((place / ALARMS).read_text()) if (place / ALARMS).is_file() else {}
    alarms, proposal = watched.get("alarms") or [], watched.get("proposal")
    policy, step = newest
    if alarms and proposal:
        policy, step = place / proposal["policy"], int(proposal["learner_step"])
    metrics = pq.read_table(place / "metrics.parquet", columns=["learner_step", "kl_clip"]).to_pylist()
    kl_clip = [row["kl_clip"] for row in metrics if row["learner_step"] <= step]
    return {
        "run": str(place),
        "policy": str(policy),
        "step": step,
        "last_step": newest[1],
        "kl_clip": kl_clip[-1] if kl_clip else 0.0,
        "alarms": [f"step {alarm['learner_step']}: {alarm['rule']}, {alarm['text']}" for alarm in alarms],
        "kept": proposal["why"] if alarms and proposal else "the last one: no alarm",
    }


def publish(state: LoopState, number: int) -> dict[str, Any]:
    """Everybody's next policy, unless the guard says that no step of the run is to be kept."""
    tuned, reward, heard = (state.found(number, stage) for stage in ("tune", "reward", "collect"))
    parent = heard["tuned_from"]
    if tuned["step"] == 0:
        state.published.serve(parent)
        return {"version": parent, "before": state.before(number), "published": False}
    facts = {
        "round": number,
        "run": tuned["run"],
        "step": tuned["step"],
        "preference": reward["serving"],
        "data": reward["data"],
        "votes": reward["votes"],
    }
    entry = state.published.publish(tuned["policy"], parent, EVERYBODY, facts)
    return {"version": entry.version, "before": parent, "published": True}
