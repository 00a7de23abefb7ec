"""Builds models without reinforcement learning.

    python -m learner.pretrain world [stage=NAME] [key=value ...]          the tiny world, from nothing
    python -m learner.pretrain policy data=TOKENS.npz [key=value ...]      a base policy from a token dataset
    python -m learner.pretrain policy.checkpoint=DIR data=DIR [key=value ...]   fine-tunes a policy on audio of yours

`world` runs its stages in order and skips what is finished, so it goes on where it was stopped; `stage=NAME` makes one
stage anew. Exit status: 0 finished, 1 started and failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cluster.errors import UserError
from configs.command_line import exit_status_of, nearest, parse_settings
from learner.supervised import SupervisedSettings


@dataclass(frozen=True)
class PolicyCommand(SupervisedSettings):
    """`python -m learner.pretrain policy` key=value."""

    data: str = ""  # tokens_mixed.npz or the like, as world.tokens writes it
    out: str = "build/tiny/policy"
    threads: int = 2


def build_world(words: Sequence[str]) -> None:
    """All stages that are not finished, or the one that is named."""
    from learner.world_stages import NEEDS, WorldBuilder, WorldSettings

    settings = parse_settings(words, WorldSettings())
    if settings.stage and settings.stage not in NEEDS:
        raise UserError(f"stage: got {settings.stage!r}, allowed {', '.join(NEEDS)}{nearest(settings.stage, NEEDS)}")
    _use_threads(settings.threads)
    builder = WorldBuilder(settings, say)
    for place, stage in enumerate(NEEDS, start=1):
        title = f"[{place}/{len(NEEDS)}] {stage}"
        if settings.stage not in ("", stage):
            continue
        if not settings.stage and builder.finished(stage):
            say(f"{title}: finished before")
            continue
        say(f"{title}: starts")
        started = time.monotonic()
        builder.make(stage)
        say(f"{title}: done in {(time.monotonic() - started) / 60:.1f} min")


def train_policy(words: Sequence[str]) -> None:
    """A base policy from tokens on disk."""
    command = parse_settings(words, PolicyCommand())
    if not command.data:
        raise UserError("data: got nothing, allowed a token file, such as build/world/tokens_mixed.npz")
    _use_threads(command.threads)
    from learner.base_policy import train_base_policy
    from world.tokens import load_tokens

    tokens = load_tokens(command.data)
    shared = {field.name: getattr(command, field.name) for field in fields(SupervisedSettings)}
    train_base_policy(tokens, Path(command.out), SupervisedSettings(**shared), say)
    say(f"policy: written to {command.out}")


def fine_tune_policy(words: Sequence[str]) -> None:
    """A policy that is there, on a folder of audio with captions or an audiocraft manifest."""
    from learner.fine_tune import FineTuneSettings, fine_tune

    plain = [word.replace(".checkpoint=", "=", 1) if word.startswith(DOTTED) else word for word in words]
    settings = parse_settings(plain, FineTuneSettings())
    fine_tune(settings, say)
    say(f"policy: written to {settings.out}/policy")


DOTTED = ("policy.checkpoint=", "codec.checkpoint=")
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"world": build_world, "policy": train_policy}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    return exit_status_of(lambda: _build(words), "interrupted; the same command goes on from here")


def _build(words: Sequence[str]) -> None:
    if words and "=" in words[0]:  # no command, settings only
        fine_tune_policy(words)
        return
    if not words or words[0] not in COMMANDS:
        got = words[0] if words else ""
        raise UserError(f"command: got {got!r}, allowed {', '.join(COMMANDS)}{nearest(got, COMMANDS)} (see --help)")
    COMMANDS[words[0]](words[1:])


def usage() -> str:
    """The module's own words and every key with its default."""
    from learner.fine_tune import FineTuneSettings
    from learner.world_stages import WorldSettings

    lines = [(__doc__ or "").strip()]
    for name, kind in (("world", WorldSettings), ("policy", PolicyCommand), ("fine-tuning", FineTuneSettings)):
        lines += ["", f"{name}:"] + [f"  {field.name}={field.default}" for field in fields(kind)]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
