"""The command line of the preference model: `python -m rewards.train preference …` and `… personal …`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cluster.errors import UserError
from configs.command_line import exit_status_of, parse_settings
from configs.setting import setting
from policy.checkpoint import load_policy
from rewards.preference import Preference
from rewards.preference_pairs import PairSet, read_pairs
from rewards.preference_personal import PersonalReward, fit_personal, personal_gain, save_personal
from rewards.preference_register import register
from rewards.preference_registry import Registry, resolve_checkpoint
from rewards.preference_settings import PreferenceSettings, usage
from rewards.preference_split import split_of
from rewards.preference_task import read_task_pairs
from rewards.preference_train import train_preference
from rewards.training import Progress

GO_ON = "interrupted; the same command goes on from the newest checkpoint"


@dataclass(frozen=True)
class PersonalSettings:
    pairs: str = setting("", "Parquet file of votes; those of the group or listener are used")
    shared: str = setting("registry:current", "the shared model: a directory, or registry:…")
    group: str = setting("", "whose taste: a group")
    listener: str = setting("", "whose taste: one listener")
    name: str = setting("", "of the head; empty: that of the group or listener")
    seed: int = setting(0, "which votes are drawn where there are more than 300", at_least=0)
    threads: int = setting(1, "torch threads", at_least=1)


def main(command: str, words: Sequence[str]) -> int:
    """Exit status 0; 1 where a training failed; 2 with one line for input that cannot be used."""
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage(command, PersonalSettings if command == "personal" else PreferenceSettings))
        return 0
    if command == "personal":
        return exit_status_of(lambda: _personal(parse_settings(words, PersonalSettings())))
    return exit_status_of(lambda: _preference(parse_settings(words, PreferenceSettings())), GO_ON)


def train_and_register(settings: PreferenceSettings, progress: Progress = print) -> Path:
    """Trains a version and, unless registry=none, enters it into the registry and judges it -> its directory."""
    out = train_preference(settings, progress)
    if settings.registry != "none":
        pairs = read_task_pairs(settings, load_policy(settings.policy))
        registry = Registry(settings.registry)
        entry = register(out, pairs, registry, settings.gate, settings.margin, settings.parent)
        progress(f"preference: version {entry.version} {entry.status} by the gate: {entry.reason}")
        progress(f"preference: current version {registry.current_version or 'none'} of {registry.place}")
    return out


def _preference(settings: PreferenceSettings) -> None:
    _say(f"preference: written to {train_and_register(settings, _say)}")


def _personal(settings: PersonalSettings) -> None:
    torch.set_num_threads(settings.threads)
    directory = resolve_checkpoint(settings.shared, "shared")
    shared = Preference.load(directory)
    votes, name = _of_one(read_pairs([path.strip() for path in settings.pairs.split(",")]), settings)
    held_out = split_of(votes, "held_out", held_out=0.3, valid=0.0)
    head = fit_personal(shared, votes.take(~held_out), settings.seed)
    folder = save_personal(directory, name, head, shared, votes)
    _say(f"personal: {name}: fitted to {head.votes} votes, penalty {head.penalty:g}, written to {folder}")
    if (held_out & votes.decided).any():
        gain = personal_gain(PersonalReward.load(folder), votes.take(held_out))
        for who in ("shared", "personal", "gain"):
            share = gain[who]
            interval = f"[{share['low']:.3f}, {share['high']:.3f}]"
            _say(f"personal: {who} {share['value']:.3f} {interval} on {share['n']} held-out votes")


def _of_one(pairs: PairSet, settings: PersonalSettings) -> tuple[PairSet, str]:
    if bool(settings.group) == bool(settings.listener):
        raise UserError(f"group: got {settings.group!r} beside listener={settings.listener!r}, allowed one of the two")
    column, wanted = (pairs.groups, settings.group) if settings.group else (pairs.listeners, settings.listener)
    rows = np.asarray(column == wanted)
    if not rows.any():
        raise UserError(f"{'group' if settings.group else 'listener'}: got {wanted!r}, allowed one of the votes")
    return pairs.take(rows), settings.name or wanted


def _say(text: str) -> None:
    print(text, flush=True)
