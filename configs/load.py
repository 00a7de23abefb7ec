"""From the words of a command line to a `Config`: defaults < preset (YAML) < key=value.

Everything wrong raises `UserError` with one line: the field, what it got, what it allows. Nothing else is imported
or started before that. With run.resume=DIR the run folder's own config.yaml takes the place of the preset; where DIR is
a URL, `locate` says which local folder has that file, for this module knows no object storage.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.errors import UserError
from configs.keys import find_key, is_section
from configs.paths import PRESETS, PROJECT_ROOT, make_portable, resolve_paths
from configs.rules import check_rules, fit_rollout_size
from configs.schema import Config, RewardConfig
from configs.values import convert, parse_scalar, shown

DEFAULT_PRESET = "tiny_r"
CONFIG_FILE = "config.yaml"
# What may differ when a run goes on: nothing here changes what is learned up to the old last step, but for the order in
# which other workers, or none, add up.
CHANGEABLE_ON_RESUME = (
    "learner.steps",
    "learner.workers",
    "learner.parallel",
    "learner.gpus",
    "learner.activation_checkpointing",
    "learner.collective_timeout_s",
    "run.keep_checkpoints",
    "pipeline.stall_s",
    "weights.backend",
    "weights.changed_only",
    "weights.deadline_s",
    "actors.deadline_s",
    "actors.max_restarts",
    "actors.generators",
    "actors.generators_min",
    "actors.generators_max",
    "actors.scorers",
    "actors.scorers_min",
    "actors.scorers_max",
    "actors.resize_rest_s",
    "actors.nodes_deadline_s",
    "guard.stop_on_alarm",
    "storage.endpoint",
    "storage.cache",
    "storage.upload_s",
    "storage.deadline_s",
    "storage.lease_s",
    "metrics.port",
    "metrics.progress",
)
# Of the machine and not of the run: they are not taken over from the run's own config.
OF_THE_MACHINE = ("storage.endpoint", "storage.cache")

Locate = Callable[[str, Mapping[str, Any]], Path]  # (a run folder, what was given of OF_THE_MACHINE) -> a local folder


def _as_path(place: str, given: Mapping[str, Any]) -> Path:
    if "://" in place:
        raise UserError(f"run.resume: got {place!r}, allowed a local folder")
    return Path(place)


def load_config(argv: Sequence[str], locate: Locate = _as_path) -> Config:
    """`key=value` arguments -> the checked config of one run, asset paths absolute where they exist.

    Raises:
        UserError: an unknown key (with the nearest right one), a wrong type or range, a preset that cannot be read,
            an impossible combination.
    """
    given = parse_arguments(argv)
    if given.get("run.resume"):
        return _load_resumed(given, locate)
    preset = str(given.pop("preset", DEFAULT_PRESET))
    file = preset_path(preset)
    below = {**_read_yaml(file, "preset"), **given}
    below.pop("preset", None)
    config = _build(below)
    config.preset = preset
    fit_rollout_size(config, below)
    check_rules(config)
    config.policy.reference = config.policy.reference or config.policy.checkpoint
    resolve_paths(config, (Path.cwd(), PROJECT_ROOT))
    return config


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """Words `key=value` -> flat mapping of dotted keys, keys checked, values as typed. `a.b={c: 1}` is taken apart.

    Raises UserError: a word without "=", an unknown key, a key given twice.
    """
    given: dict[str, Any] = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{shown(word)}: not understood, write key=value (see --help)")
        if key.startswith("-"):
            raise UserError(f"{shown(word)}: not understood, write {key.lstrip('-')}={text}")
        key = key.strip()
        value = parse_scalar(text) if is_section(key) or ".options." in key else text
        for path, part in _flatten(key, value):
            if path in given:
                raise UserError(f"{path}: given twice, {shown(given[path])} and {shown(part)}")
            given[path] = part
    return given


def preset_path(preset: str) -> Path:
    """The YAML file of a preset's name or path."""
    named = PRESETS / f"{preset}.yaml"
    if preset and "/" not in preset and named.is_file():
        return named
    if preset.endswith((".yaml", ".yml")) or "/" in preset:
        return Path(preset).expanduser()
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    near = difflib.get_close_matches(preset, names, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    raise UserError(f"preset: got {preset!r}, allowed {', '.join(names)} or the path of a YAML file{hint}")


def stored_yaml(config: Config) -> str:
    """The resolved config as YAML that `load_config` reads again; assets of the project relative to its root."""
    portable = _build(dict(_flatten("", dataclasses.asdict(config))))
    make_portable(portable)
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(portable)))


def load_stored(run_dir: str | Path, field: str = "run.resume") -> Config:
    """The config that a run folder was made with; its `run.dir` is the folder as it is found now."""
    folder = Path(run_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"{field}: got {str(run_dir)!r}, allowed the folder of an earlier run")
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{field}: got {str(run_dir)!r}, which has no {CONFIG_FILE}; allowed the folder of an earlier run"
        )
    config = _build(_read_yaml(folder / CONFIG_FILE, field))
    config.run.dir, config.run.resume = str(folder), ""
    check_rules(config)
    resolve_paths(config, (PROJECT_ROOT, Path.cwd()))
    return config


def _load_resumed(given: dict[str, Any], locate: Locate) -> Config:
    place = str(given.pop("run.resume"))
    folder = locate(place, {path: given[path] for path in OF_THE_MACHINE if path in given})
    stored = load_stored(folder)
    stored.run.dir = place if "://" in place else stored.run.dir
    stored.storage.endpoint = stored.storage.cache = ""
    before = dict(_flatten("", dataclasses.asdict(stored)))
    config = _build({**before, **given})
    resolve_paths(config, (PROJECT_ROOT, Path.cwd()))
    _check_unchanged(before, dict(_flatten("", dataclasses.asdict(config))))
    if config.learner.steps < stored.learner.steps:
        raise UserError(
            f"learner.steps: got {config.learner.steps} beside run.resume, allowed at least {stored.learner.steps}"
        )
    check_rules(config)
    config.run.resume = config.run.dir
    return config


def _check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError that names every key which a resume may not change, each with what it got and its own value."""
    changed = [
        f"{path}: got {shown(value)} beside run.resume, allowed "
        + (f"the run's own {shown(before[path])}" if path in before else "only the run's own keys")
        for path, value in now.items()
        if path not in CHANGEABLE_ON_RESUME and (path not in before or before[path] != value)
    ]
    if changed:
        raise UserError("; ".join(changed) + f"; free to change: {', '.join(CHANGEABLE_ON_RESUME)}")


def _read_yaml(path: Path, field: str) -> dict[str, Any]:
    """A YAML file -> flat mapping of dotted keys, each checked against the schema. Raises UserError."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{field}: got {str(path)!r}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{field}: got {str(path)!r}, allowed a YAML file in UTF-8") from None
    try:
        content = yaml.safe_load(text) or {}
        loaded = OmegaConf.create(text) if isinstance(content, dict) else None
    except yaml.YAMLError as error:
        raise UserError(f"{field}: {path} is no valid YAML{_yaml_place(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{field}: got {str(path)!r}, allowed a YAML file of key: value lines")
    try:
        return dict(_flatten("", OmegaConf.to_container(loaded)))
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def _yaml_place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", "") or "").splitlines()
    return (f", line {mark.line + 1}" if mark else "") + (f": {problem[0]}" if problem else "")


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """Nested mappings -> (dotted key, value) pairs. Raises UserError for a key that the schema does not have."""
    if prefix and not is_section(prefix):
        find_key(prefix)
        return [(prefix, value)]
    if not isinstance(value, dict):
        raise UserError(f"{prefix}: got {shown(value)}, allowed a section of keys; see --help")
    if prefix.startswith("rewards.") and not value:
        return [(f"{prefix}.weight", RewardConfig().weight)]  # `rewards.NAME: {}` still names a reward
    dot = prefix + "." if prefix else ""
    return [pair for name, below in value.items() for pair in _flatten(f"{dot}{name}", below)]


def _build(flat: dict[str, Any]) -> Config:
    """Dotted keys -> Config. Interpolations (`${learner.steps}`, `${oc.env:HOME}`) are resolved against all values."""
    everything = dataclasses.asdict(Config())
    names = {path.split(".")[1] for path in flat if path.startswith("rewards.")}
    everything["rewards"] = {name: dataclasses.asdict(RewardConfig()) for name in sorted(names)}
    tree = OmegaConf.create(everything)
    try:
        for path, value in flat.items():
            OmegaConf.update(tree, path, value, merge=False)
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from None
    return _typed(Config, plain, "")


def _typed(schema: Any, values: Any, prefix: str) -> Any:
    hints = typing.get_type_hints(schema)
    built = {}
    for name, value in values.items():
        path = prefix + name
        if dataclasses.is_dataclass(hints[name]):
            built[name] = _typed(hints[name], value, path + ".")
        elif path == "rewards":
            built[name] = {key: _typed(RewardConfig, reward, f"rewards.{key}.") for key, reward in value.items()}
        else:
            built[name] = convert(path, value, find_key(path))
    return schema(**built)
