"""How well each variant of the preference model foretells held-out simulated votes, beside simple rules and the limit.

Two figures each: the share of held-out votes foretold, and the share expected over all votes that the panel might have
cast on these pairs, which the hidden chances give and which is free of the votes' own chance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.session import PROJECT_ROOT
from codec.checkpoint import load_codec
from configs.schema import RewardConfig
from evaluation.statistics import Interval
from feedback.simulated_ceiling import Answers, best_accuracy, best_accuracy_known, rule_accuracy
from feedback.simulated_pair_parts import hidden_path
from feedback.study_settings import StudySettings
from feedback.study_stages import VARIANTS, counted, model_folder, votes_file
from policy.checkpoint import load_policy
from rewards.port import ClipBatch, RewardModel
from rewards.preference import Preference
from rewards.preference_figures import accuracy
from rewards.preference_measure import score_pairs
from rewards.preference_pairs import PairSet, read_pairs
from rewards.preference_split import split_of
from rewards.registry import build_rewards

BATCH = 64


def accuracy_table(settings: StudySettings) -> pa.Table:
    """One row a variant (kind "model"), a rule (kind "rule") and a limit (kind "limit")."""
    pairs = read_pairs(counted(votes_file(settings)))
    pairs = pairs.take(split_of(pairs, "held_out"))
    hidden, answers = hidden_of(pairs, hidden_path(votes_file(settings)))
    rows = []
    for name in VARIANTS:
        if (model_folder(settings, name) / "training.json").is_file():
            model = Preference.load(model_folder(settings, name))
            rows.append(_row(f"preference model, {name}", "model", *score_pairs(model, pairs), pairs, answers))
    for reward in rule_models():
        rows.append(_row(f"higher {reward.name}", "rule", *score_clips(settings, reward, pairs), pairs, answers))
    utility = hidden["utility_a"].to_numpy(), hidden["utility_b"].to_numpy()
    rows.append(_row("higher hidden utility", "rule", *utility, pairs, answers))
    for name, limit in {
        "best possible, listener unknown": best_accuracy(answers),
        "best possible, listener known": best_accuracy_known(answers),
    }.items():
        rows.append(_flat(name, "limit", limit, limit, len(pairs)))
    return pa.Table.from_pylist(rows)


def hidden_of(pairs: PairSet, path: Path) -> tuple[pa.Table, Answers]:
    """The truth behind these votes, in their order."""
    table = pq.read_table(path)
    place = {vote_id: row for row, vote_id in enumerate(table["vote_id"].to_pylist())}
    table = table.take(pa.array([place[vote_id] for vote_id in pairs.vote_ids]))
    return table, Answers(*(table[name].to_numpy() for name in ("takes_a", "takes_b", "best_known")))


def rule_models() -> list[RewardModel]:
    """The rewards of MusicRL-R as they are shipped: neither has learnt from a vote."""
    names = ("text_adherence", "quality")
    return build_rewards({name: RewardConfig(checkpoint=str(PROJECT_ROOT / "assets/tiny" / name)) for name in names})


def score_clips(settings: StudySettings, reward: RewardModel, pairs: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both clips of every vote from the decoder's log-mel. -> [P], [P]."""
    codec, policy = load_codec(settings.codec), load_policy(settings.policy)
    acoustic = [k for k, stream in enumerate(policy.streams) if stream.kind == "acoustic"]

    def scores(codes: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(codes), BATCH):
            part = torch.from_numpy(codes[start : start + BATCH, acoustic].astype(np.int64))
            with torch.inference_mode():
                mel = codec.decode_log_mel(part).float().numpy()
            prompts = tuple(pairs.prompts[start : start + BATCH])
            found.append(reward.score(ClipBatch(prompts, codec.sample_rate_hz, log_mel=mel)))
        return np.concatenate(found)

    return scores(pairs.codes_a), scores(pairs.codes_b)


def _row(
    name: str, kind: str, score_a: np.ndarray, score_b: np.ndarray, pairs: PairSet, answers: Answers
) -> dict[str, object]:
    seen = accuracy(np.asarray(score_a, np.float64) - score_b, pairs)
    expected = rule_accuracy(answers, score_a, score_b)
    return _flat(name, kind, Interval(seen.value, seen.low, seen.high), expected, len(pairs))


def _flat(name: str, kind: str, seen: Interval, expected: Interval, votes: int) -> dict[str, object]:
    ends = {"accuracy": seen.value, "low": seen.low, "high": seen.high}
    hoped = {"expected": expected.value, "expected_low": expected.low, "expected_high": expected.high}
    return {"name": name, "kind": kind, **ends, **hoped, "votes": votes}
