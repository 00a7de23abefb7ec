"""Build the scorers of a run: its rewards with their weights, and the judges held out from it."""

from __future__ import annotations

from cluster.errors import UserError
from configs.schema import RewardConfig
from evaluation.evaluate import Panel
from evaluation.judges import embedder_of, load_judges
from evaluation.score_rows import MIXTURE
from rewards.mixture import mix
from rewards.registry import build_rewards, reward_specs


def load_panel(rewards: dict[str, RewardConfig], judges_dir: str) -> Panel:
    """`rewards.*` of the config and the judges in `judges_dir` (empty: none)."""
    models = build_rewards(rewards)
    specs = reward_specs(models, rewards)
    judges = load_judges(judges_dir)
    taken = {MIXTURE, *specs}.intersection(judge.name for judge in judges) or {MIXTURE}.intersection(specs)
    if taken:
        raise UserError(f"rewards.{min(taken)}: this name is taken by the mixture or a judge, allowed any other")
    return Panel(tuple(models), tuple(judges), lambda scores: mix(scores, specs)[0], embedder_of(judges))
