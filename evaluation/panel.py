"""Build the scorers of a run: its rewards with their weights, and the judges held out from it."""

from __future__ import annotations

from cluster.errors import UserError
from configs.schema import RewardConfig
from evaluation.evaluate import Panel
from evaluation.judges import embedder_of, load_judges
from evaluation.score_rows import DIVERSITY, MIXTURE, SECOND_PREFERENCE
from rewards.mixture import mix
from rewards.port import RewardModel
from rewards.preference_personal import load_preference
from rewards.registry import build_rewards, local_checkpoint, reward_specs


def load_panel(rewards: dict[str, RewardConfig], judges_dir: str, second_preference: str = "") -> Panel:
    """`rewards.*` of the config, the judges in `judges_dir` and the guarding preference model (empty: none)."""
    models = build_rewards(rewards)
    specs = reward_specs(models, rewards)
    judges = load_judges(judges_dir) + _second_preference(second_preference)
    own = {MIXTURE, DIVERSITY, SECOND_PREFERENCE}
    taken = {MIXTURE, *specs}.intersection(judge.name for judge in judges) or own.intersection(specs)
    if taken:
        raise UserError(f"rewards.{min(taken)}: this name is taken by the mixture or a judge, allowed any other")
    return Panel(tuple(models), tuple(judges), lambda scores: mix(scores, specs)[0], embedder_of(judges))


def _second_preference(checkpoint: str) -> list[RewardModel]:
    """The model of `guard.second_preference` as a judge. Raises UserError where there is none."""
    if not checkpoint:
        return []
    try:
        model = load_preference(local_checkpoint(checkpoint))
    except UserError as error:
        raise UserError(f"guard.second_preference: {error}") from None
    model.name = SECOND_PREFERENCE
    return [model]
