"""Rules between settings: combinations that cannot work are refused here, by name."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from configs.errors import UserError
from configs.keys import BUILT_IN_REWARDS, EXTRA_REWARDS
from configs.schema import Config


def fit_rollout_size(config: Config, given: Collection[str]) -> None:
    """Where nobody chose actors.rollout_size, take the largest divisor of the batch up to the default that whole
    groups fill. The settings that people vary (batch and group size) then need no third one beside them."""
    if "actors.rollout_size" in given:
        return
    batch, group, largest = config.learner.batch_size, config.sampling.group_size, config.actors.rollout_size
    fitting = [size for size in range(1, min(batch, largest) + 1) if batch % size == 0 and size % group == 0]
    if fitting:
        config.actors.rollout_size = fitting[-1]
    elif group <= batch and batch % group == 0:
        config.actors.rollout_size = group  # groups larger than the default task


def check_rules(config: Config) -> None:
    """Raises UserError for the first combination that cannot work."""
    if "://" in config.run.dir and not config.run.dir.startswith("s3://"):
        raise UserError(f"run.dir: got {config.run.dir!r}, allowed a local folder or s3://BUCKET/PREFIX")
    _check_batch(config)
    _check_learner(config)
    _check_sampling(config)
    _check_pipeline(config)
    _check_sizes(config)
    for name in config.rewards:
        _check_reward(name, config)


def _check_batch(config: Config) -> None:
    batch, rollout, group = config.learner.batch_size, config.actors.rollout_size, config.sampling.group_size
    if batch % group:
        raise UserError(f"sampling.group_size: got {group}, allowed a divisor of learner.batch_size ({batch})")
    if batch % rollout:
        raise UserError(f"actors.rollout_size: got {rollout}, allowed a divisor of learner.batch_size ({batch})")
    if rollout % group:
        raise UserError(f"sampling.group_size: got {group}, allowed a divisor of actors.rollout_size ({rollout})")


def _check_learner(config: Config) -> None:
    learner = config.learner
    if learner.baseline == "leave_one_out" and config.sampling.group_size < 2:
        raise UserError(
            f"sampling.group_size: got {config.sampling.group_size}, allowed at least 2 with "
            "learner.baseline=leave_one_out, which compares samples of one prompt"
        )
    if learner.baseline == "batch_mean" and learner.batch_size < 2:
        raise UserError("learner.batch_size: got 1, allowed at least 2 with learner.baseline=batch_mean")
    if learner.value_trunk == "policy" and learner.baseline != "value":
        raise UserError(
            f"learner.value_trunk: got policy, allowed own with learner.baseline={learner.baseline}, which has no "
            "value network"
        )
    if learner.value_gradient and learner.value_trunk != "policy":
        raise UserError(
            f"learner.value_gradient: got {learner.value_gradient:g}, allowed 0 with learner.value_trunk=own, whose "
            "loss never reaches the policy"
        )
    if learner.batch_size % learner.workers:
        raise UserError(
            f"learner.workers: got {learner.workers}, allowed a divisor of learner.batch_size ({learner.batch_size})"
        )
    if learner.workers > 1 and learner.collective_timeout_s >= config.pipeline.stall_s:
        raise UserError(
            f"learner.collective_timeout_s: got {learner.collective_timeout_s:g}, allowed less than pipeline.stall_s "
            f"({config.pipeline.stall_s:g}), which would end the run before it is known which worker is missing"
        )
    if learner.optimizer_states != "float32" and learner.lora_rank:
        raise UserError(
            f"learner.optimizer_states: got {learner.optimizer_states}, allowed float32 with learner.lora_rank: the "
            "moments of adapters are few"
        )
    if learner.value_warmup_steps >= learner.steps:
        raise UserError(
            f"learner.value_warmup_steps: got {learner.value_warmup_steps}, allowed less than learner.steps "
            f"({learner.steps}), else the policy never learns"
        )


def _check_sampling(config: Config) -> None:
    if config.sampling.top_k:
        raise UserError(
            f"sampling.top_k: got {config.sampling.top_k}, allowed 0: training needs the log-probability of the whole "
            "distribution, which truncated sampling does not follow"
        )


def _check_pipeline(config: Config) -> None:
    pipeline = config.pipeline
    if pipeline.mode == "async" and pipeline.max_staleness < 1:
        raise UserError(
            f"pipeline.max_staleness: got {pipeline.max_staleness}, allowed at least 1 with pipeline.mode=async "
            "(for none use pipeline.mode=sync)"
        )


def _check_sizes(config: Config) -> None:
    actors = config.actors
    for role, size, least, most in (
        ("generators", actors.generators, actors.generators_min, actors.generators_max),
        ("scorers", actors.scorers, actors.scorers_min, actors.scorers_max),
    ):
        if not most and least:
            raise UserError(f"actors.{role}_min: got {least}, allowed 0 without actors.{role}_max")
        if most and least > most:
            raise UserError(f"actors.{role}_min: got {least}, allowed at most actors.{role}_max ({most})")
        if most and not least <= size <= most:
            raise UserError(
                f"actors.{role}: got {size}, allowed {max(1, least)} to {most} (actors.{role}_min, actors.{role}_max)"
            )


def _check_reward(name: str, config: Config) -> None:
    reward = config.rewards[name]
    if reward.target:
        module, colon, cls = reward.target.partition(":")
        if not (colon and cls.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise UserError(f"rewards.{name}.target: got {reward.target!r}, allowed module:Class")
        if reward.model:
            raise UserError(f"rewards.{name}.model: got {reward.model!r} beside a target, allowed one of both")
    elif not reward.model and name not in BUILT_IN_REWARDS + EXTRA_REWARDS:
        near = difflib.get_close_matches(name, BUILT_IN_REWARDS + EXTRA_REWARDS, n=1)
        hint = f"did you mean rewards.{near[0]}?" if near else f"built in are {', '.join(BUILT_IN_REWARDS)};"
        raise UserError(f"rewards.{name}: no built-in reward of that name, {hint} one of your own needs a target")
    elif not reward.checkpoint:
        raise UserError(f"rewards.{name}.checkpoint: got '', allowed a directory with a trained reward model")
    if reward.environment and (reward.target or not (reward.model or name in EXTRA_REWARDS)):
        allowed = f"it with a model of the field, {', '.join(EXTRA_REWARDS)}"
        raise UserError(f"rewards.{name}.environment: got {reward.environment!r}, allowed {allowed}")
