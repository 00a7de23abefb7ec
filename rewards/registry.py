"""From the config's `rewards.NAME.*` to reward models: the built-in ones by name, a user's own by `target`.

A reward of your own is one class with `score(clips) -> [B]`; everything else of rewards.port.RewardModel has a default:

    rewards.brightness.target=my_rewards:Brightness rewards.brightness.weight=0.5

Models of the field (rewards.extra) are named by `rewards.NAME.model`, or by a NAME that is one of theirs:

    rewards.clap.checkpoint=DIR        rewards.taste.model=audiobox rewards.taste.checkpoint=DIR
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cluster.errors import UserError
from cluster.working_copy import local_copy
from configs.keys import EXTRA_REWARDS
from configs.schema import RewardConfig
from rewards.extra.catalogue import EXTRAS, check_installed
from rewards.extra.isolation import IsolatedReward, python_of
from rewards.mixture import RewardSpec
from rewards.port import ClipBatch, ClipView, RewardModel

VIEWS: tuple[ClipView, ...] = ("log_mel", "pcm", "codes")


def _text_adherence(directory: str) -> RewardModel:
    from rewards.text_adherence import TextAdherence

    return TextAdherence.load(directory)


def _quality(directory: str) -> RewardModel:
    from rewards.quality import Quality

    return Quality.load(directory)


def _preference(directory: str) -> RewardModel:
    from rewards.preference_personal import load_preference

    return load_preference(local_checkpoint(directory))


BUILT_IN: dict[str, Callable[[str], RewardModel]] = {
    "text_adherence": _text_adherence,
    "quality": _quality,
    "preference": _preference,
}


class ConfiguredReward:
    """A reward under the NAME of its config, with the config's normalisation where it gives one."""

    def __init__(self, name: str, inner: Any, config: RewardConfig) -> None:
        self.name = name
        self.inner = inner
        self.version = str(getattr(inner, "version", "") or type(inner).__name__)
        self.needs: frozenset[ClipView] = _views(name, getattr(inner, "needs", ("log_mel",)))
        self.shift = float(getattr(inner, "shift", 0.0) if config.shift is None else config.shift)
        self.scale = float(getattr(inner, "scale", 1.0) if config.scale is None else config.scale)

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32, as the inner model gives them. The scorer pool checks the shape."""
        return np.asarray(self.inner.score(clips), dtype=np.float32)


def build_rewards(rewards: Mapping[str, RewardConfig]) -> list[RewardModel]:
    """One model for each entry, in the config's order. Raises UserError in one line for whatever cannot be used."""
    check_rewards(rewards)
    return [ConfiguredReward(name, _build(name, config), config) for name, config in rewards.items()]


def reward_specs(models: list[RewardModel], rewards: Mapping[str, RewardConfig]) -> dict[str, RewardSpec]:
    """What `rewards.mixture.mix` needs, by NAME."""
    return {model.name: RewardSpec(rewards[model.name].weight, model.shift, model.scale) for model in models}


def local_checkpoint(text: str) -> str:
    """The directory that a reward's checkpoint means: `registry:…` names a version of the preference model, and of
    s3://BUCKET/PREFIX it is a copy on this machine."""
    from rewards.preference_registry import resolve_checkpoint  # here: no other reward needs it

    return str(local_copy(resolve_checkpoint(text), "checkpoint"))


def pin_checkpoints(rewards: Mapping[str, RewardConfig]) -> None:
    """Replaces `registry:current` by the version that is current now, for a run keeps its rewards. Raises UserError."""
    from rewards.preference_registry import pin_checkpoint

    for name, config in rewards.items():
        config.checkpoint = pin_checkpoint(config.checkpoint, f"rewards.{name}.checkpoint")


def check_rewards(rewards: Mapping[str, RewardConfig]) -> None:
    """Names, targets and numbers of the config; imports no torch, opens no file. Raises UserError."""
    if not rewards:
        raise UserError("rewards: got none, allowed at least one, such as rewards.quality.weight=1")
    for name, config in rewards.items():
        _check_numbers(name, config)
        if not config.target and not extra_model(name, config) and name not in BUILT_IN:
            near = difflib.get_close_matches(name, [*BUILT_IN, *EXTRAS], n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UserError(
                f"rewards.{name}: unknown reward{hint} Allowed {', '.join([*BUILT_IN, *EXTRAS])}, or your own with "
                f"rewards.{name}.target=module:Class"
            )
        if not config.target and not config.checkpoint:
            raise UserError(f"rewards.{name}.checkpoint: got nothing, allowed a directory")
    if all(config.weight == 0 for config in rewards.values()):
        raise UserError("rewards: got weight 0 for each, allowed at least one other than 0")


def extra_model(name: str, config: RewardConfig) -> str:
    """The model of the field that a reward means; empty where it is built in or the user's own."""
    return config.model or (name if name in EXTRA_REWARDS and not config.target else "")


def load_extra(
    model: str,
    checkpoint: str,
    environment: str = "",
    options: Mapping[str, Any] | None = None,
    deadline_s: float = 60.0,
) -> Any:
    """A model of the field, here or in an environment of its own. Raises UserError.

    options.threads and options.gpus are those of its own process; all others are handed to the model.
    """
    extra, given = EXTRAS[model], dict(options or {})
    threads, gpus = int(given.pop("threads", 1)), float(given.pop("gpus", 0.0))
    arguments = {"checkpoint": str(local_copy(checkpoint, "checkpoint")), **given}
    if environment:
        return IsolatedReward(model, extra.target, arguments, environment, deadline_s, threads, gpus)
    check_installed(extra)
    module, _, cls = extra.target.partition(":")
    try:
        return getattr(importlib.import_module(module), cls)(**arguments)
    except TypeError as error:  # an option that the model does not have
        raise UserError(f"options: {_one_line(error)}") from None


def check_extra(model: str, checkpoint: str, environment: str) -> None:
    """What can be said without loading it: the folder is there, and packages or environment. Raises UserError."""
    if environment:
        python_of(environment)
    else:
        check_installed(EXTRAS[model])
    if not local_copy(checkpoint, "checkpoint").is_dir():
        raise UserError(f"{model} checkpoint: got {checkpoint!r}, allowed a local directory (nothing is downloaded)")


def _check_numbers(name: str, config: RewardConfig) -> None:
    for field in ("weight", "shift", "scale"):
        value = getattr(config, field)
        if value is not None and not math.isfinite(value):
            raise UserError(f"rewards.{name}.{field}: got {value}, allowed a finite number")
    if config.scale is not None and config.scale <= 0:
        raise UserError(f"rewards.{name}.scale: got {config.scale}, allowed a number > 0")
    if not (math.isfinite(config.deadline_s) and config.deadline_s > 0):
        raise UserError(f"rewards.{name}.deadline_s: got {config.deadline_s}, allowed a number of seconds > 0")


def _build(name: str, config: RewardConfig) -> Any:
    extra = extra_model(name, config)
    if extra:
        try:
            return load_extra(extra, config.checkpoint, config.environment, config.options, config.deadline_s)
        except UserError as error:
            raise UserError(f"rewards.{name}: {error}") from None
    if not config.target:
        try:
            return BUILT_IN[name](local_checkpoint(config.checkpoint))
        except UserError as error:
            raise UserError(f"rewards.{name}.checkpoint: {error}") from None
    target = find_target(name, config.target)
    options = dict(config.options)
    if config.checkpoint:
        options["checkpoint"] = config.checkpoint
    try:
        model = target(**options)
    except UserError:
        raise
    except Exception as error:  # anything a stranger's constructor can raise
        raise UserError(f"rewards.{name}: {config.target} could not be made ({_one_line(error)})") from None
    if not callable(getattr(model, "score", None)):
        raise UserError(f"rewards.{name}.target: got {config.target} without score(clips), allowed a class with it")
    return model


def find_target(name: str, target: str) -> Callable[..., Any]:
    """Imports "module:Class". Raises UserError in one line."""
    module_name, colon, class_name = target.partition(":")
    if not (colon and module_name and class_name):
        raise UserError(f"rewards.{name}.target: got {target!r}, allowed module:Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's can fail in any way
        raise UserError(f"rewards.{name}.target: module {module_name!r} not importable ({_one_line(error)})") from None
    found = getattr(module, class_name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if isinstance(value, type)]
        near = difflib.get_close_matches(class_name, names, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise UserError(f"rewards.{name}.target: no class {class_name!r} in module {module_name!r}{hint}")
    return found


def _views(name: str, needs: Any) -> frozenset[ClipView]:
    views = frozenset([needs] if isinstance(needs, str) else needs)
    if not views <= set(VIEWS):
        raise UserError(f"rewards.{name}: needs {sorted(views)}, allowed {', '.join(VIEWS)}")
    return views


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
