"""The dotted keys of the schema: which exist, what type they have, and the nearest right one to a wrong one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from dataclasses import Field, dataclass
from typing import Any

from configs.errors import UserError
from configs.schema import Config, RewardConfig
from configs.setting import Allowed, allowed_of, meaning_of

REWARD_NAME = re.compile(r"[a-z][a-z0-9_]*")
BUILT_IN_REWARDS = ("text_adherence", "quality", "preference")
EXTRA_REWARDS = ("clap", "laion_clap", "muq_mulan", "audiobox")  # models of the field, as rewards.extra.catalogue


@dataclass(frozen=True)
class Key:
    """One leaf of the schema. `path` is its dotted name, with NAME where a reward's name stands."""

    path: str
    type: Any
    default: Any
    meaning: str
    allowed: Allowed


@functools.cache
def all_keys() -> dict[str, Key]:
    """Dotted name -> key, in the order of the schema; those of a reward under rewards.NAME."""
    return {key.path: key for key in _keys_of(Config, "")}


def find_key(path: str) -> Key:
    """The key that `path` names (rewards.quality.weight is rewards.NAME.weight).

    Raises UserError for a path that names none, with the nearest right one.
    """
    pattern, name = _pattern_of(path)
    found = all_keys().get(pattern)
    if found is None:
        raise UserError(f"{path}: unknown key{_suggestion(pattern, name)}")
    if name and not REWARD_NAME.fullmatch(name):
        raise UserError(f"{path}: got the reward name {name!r}, allowed lower-case letters, digits and _")
    return found


def is_section(path: str) -> bool:
    """Whether keys lie under `path`; free mappings (options) are leaves."""
    pattern, _ = _pattern_of(path)
    return any(key.startswith(pattern + ".") for key in all_keys()) or path == "rewards"


def _keys_of(schema: Any, prefix: str) -> list[Key]:
    hints = typing.get_type_hints(schema)
    keys = []
    for item in dataclasses.fields(schema):
        path, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            keys += _keys_of(kind, path + ".")
        elif kind == dict[str, RewardConfig]:
            keys += _keys_of(RewardConfig, path + ".NAME.")
        else:
            keys.append(Key(path, kind, _default(item), meaning_of(item), allowed_of(item)))
    return keys


def _default(item: Field) -> Any:
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _pattern_of(path: str) -> tuple[str, str]:
    """rewards.quality.weight -> (rewards.NAME.weight, quality); all of options is one leaf."""
    parts = path.split(".")
    if parts[0] != "rewards" or len(parts) < 2:
        return path, ""
    name, rest = parts[1], parts[2:]
    if rest[:1] == ["options"]:
        rest = rest[:1]
    return ".".join(["rewards", "NAME", *rest]), name


def _suggestion(pattern: str, name: str) -> str:
    if is_section(pattern):
        return " of its own, it is a section; see --help"
    known = list(all_keys())
    section, _, leaf = pattern.rpartition(".")
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf]
    close = same_leaf or difflib.get_close_matches(pattern, known, n=3, cutoff=0.8)
    if not close:
        leaves = {key.rpartition(".")[2]: key for key in known}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.75)]
    if close:
        nearest = max(close, key=lambda key: difflib.SequenceMatcher(None, pattern, key).ratio())
        return f", did you mean {nearest.replace('NAME', name) if name else nearest}?"
    siblings = [key.removeprefix(section + ".") for key in known if section and key.startswith(section + ".")]
    return f"; {section} has {', '.join(siblings)}" if siblings else "; see --help for all keys"
