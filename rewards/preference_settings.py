"""What `python -m rewards.train preference` takes, with defaults and meanings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cluster.errors import UserError
from configs.setting import meaning_of, setting
from rewards.preference_gate import RULES
from rewards.preference_loss import TIES
from rewards.preference_net import POOLINGS
from rewards.preference_split import HALVES, SPLITS


@dataclass(frozen=True)
class PreferenceSettings:
    pairs: str = setting("", "Parquet file of votes (rewards/preference_pairs.py); several with commas between")
    policy: str = setting("assets/tiny/policy", "directory of the policy whose weights it starts from")
    start: str = setting("", "directory of an earlier version whose weights it goes on from; empty: the policy's")
    out: str = setting("", "directory of the model; empty: runs/preference/DATA-SEED")
    registry: str = setting(
        "runs/preference/registry", "registry that the version is entered into, and gated; none: no entry"
    )
    gate: str = setting("above", "what a version must be to serve in place of the current one", choices=RULES)
    margin: float = setting(0.01, "how far below the current accuracy gate=not_below allows", at_least=0, at_most=0.5)
    parent: str = setting("", "version that this one follows, for the registry; empty: the current one")
    # data
    split_by: str = setting("prompt", "no prompt (or no listener) is in more than one part", choices=SPLITS)
    held_out: float = setting(0.1, "share that the figures and the gate use", at_least=0.01, at_most=0.5)
    valid: float = setting(0.05, "share that stops the training and sets the temperature", at_least=0.01, at_most=0.5)
    half: str = setting("", "learn from one half of the listeners only; empty: all", choices=HALVES)
    group: str = setting("", "learn from one group of listeners only; empty: all")
    crop_s: float = setting(0.0, "learn from random crops of that length; 0: whole clips", at_least=0, at_most=120)
    neither: str = setting("drop", "votes for neither clip: left out, or taken as ties", choices=("drop", "tie"))
    ties: str = setting("davidson", "Davidson's model, half a win each, or left out", choices=TIES)
    listener_power: float = setting(
        0.0, "a vote weighs (votes of its listener)^-power; 1: every listener the same", at_least=0, at_most=1
    )
    # network
    scratch: bool = setting(False, "the same network from random weights")
    text: bool = setting(True, "false: without the caption")
    pooling: str = setting("statistics", "over the frames' states; statistics: mean and deviation", choices=POOLINGS)
    hidden: int = setting(128, "width of the head; 0: linear", at_least=0, at_most=4096)
    dropout: float = setting(0.1, "in trunk and head", at_least=0, at_most=0.9)
    # training
    head_first: bool = setting(True, "fit the head to the trunk as it is before both are trained")
    steps: int = setting(0, "updates at most; 0: by epochs", at_least=0)
    epochs: float = setting(2.0, "passes over the votes at most", above=0, at_most=1000)
    batch_size: int = setting(32, "pairs per update (32: paper, section 3.3)", at_least=1)
    learning_rate: float = setting(3e-4, "of the trunk", above=0, at_most=1)
    head_learning_rate: float = setting(1e-3, "of head, side and ties", above=0, at_most=1)
    weight_decay: float = setting(0.05, "AdamW's", at_least=0, at_most=1)
    eval_every: int = setting(100, "steps between looks at the validation votes", at_least=1)
    patience: int = setting(4, "looks without a better one until it stops; 0: never", at_least=0)
    seed: int = setting(0, "of weights, order, dropout and crops", at_least=0, at_most=2**32 - 1)
    # machine
    workers: int = setting(1, "Ray Train workers; 0: in this process, without Ray", at_least=0)
    threads: int = setting(1, "torch threads (and CPUs) of each worker", at_least=1)
    gpu: bool = setting(False, "one GPU for each worker")
    checkpoint_every: int = setting(50, "steps between checkpoints", at_least=1)


def check_preference_settings(settings: PreferenceSettings) -> None:
    """Combinations that cannot work. Raises UserError."""
    if not settings.pairs:
        raise UserError("pairs: got nothing, allowed a Parquet file of votes, such as pairs=votes.parquet")
    if settings.workers > 1 and settings.batch_size % settings.workers:
        raise UserError(f"batch_size: got {settings.batch_size}, allowed a multiple of workers ({settings.workers})")
    if settings.held_out + settings.valid > 0.9:
        raise UserError(
            f"held_out: got {settings.held_out} beside valid={settings.valid}, allowed at most 0.9 together"
        )


def usage(command: str, settings_class: type) -> str:
    """One line a setting."""
    lines = [f"usage: python -m rewards.train {command} pairs=FILE.parquet [key=value ...]", ""]
    for item in dataclasses.fields(settings_class):
        lines.append(f"  {item.name + '=' + str(item.default):<36} {meaning_of(item)}")
    return "\n".join(lines)
