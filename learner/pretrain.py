"""Builds models without reinforcement learning.

    python -m learner.pretrain world [stage=NAME] [key=value ...]          the tiny world, from nothing
    python -m learner.pretrain policy data=TOKENS.npz [key=value ...]      a base policy from a token dataset

`world` runs its stages in order and skips what is finished, so it goes on where it was stopped; `stage=NAME` makes one
stage anew. Exit status: 0 finished, 1 started and failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import difflib
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import RunFailed, UserError
from learner.supervised import SupervisedSettings

Settings = TypeVar("Settings")
ALLOWED_ZERO = ("seed", "warmup_steps", "weight_decay", "caption_dropout", "dropout")
SHARES = ("caption_dropout", "dropout")


@dataclass(frozen=True)
class PolicyCommand(SupervisedSettings):
    """`python -m learner.pretrain policy` key=value."""

    data: str = ""  # tokens_mixed.npz or the like, as world.tokens writes it
    out: str = "build/tiny/policy"
    threads: int = 2


def build_world(words: Sequence[str]) -> None:
    """All stages that are not finished, or the one that is named."""
    from learner.world_stages import NEEDS, WorldBuilder, WorldSettings

    settings = parse(words, WorldSettings)
    if settings.stage and settings.stage not in NEEDS:
        raise UserError(f"stage: got {settings.stage!r}, allowed {', '.join(NEEDS)}{_near(settings.stage, NEEDS)}")
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
    command = parse(words, PolicyCommand)
    if not command.data:
        raise UserError("data: got nothing, allowed a token file, such as build/world/tokens_mixed.npz")
    _use_threads(command.threads)
    from learner.base_policy import train_base_policy
    from world.tokens import load_tokens

    tokens = load_tokens(command.data)
    shared = {field.name: getattr(command, field.name) for field in fields(SupervisedSettings)}
    train_base_policy(tokens, Path(command.out), SupervisedSettings(**shared), say)
    say(f"policy: written to {command.out}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"world": build_world, "policy": train_policy}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(usage())
        return 0
    try:
        if not words or words[0] not in COMMANDS:
            got = words[0] if words else ""
            raise UserError(f"command: got {got!r}, allowed {', '.join(COMMANDS)}{_near(got, COMMANDS)} (see --help)")
        COMMANDS[words[0]](words[1:])
    except (UserError, RunFailed) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        return 130
    return 0


def parse(words: Sequence[str], kind: type[Settings]) -> Settings:
    """`key=value` words over a settings class of str, int and float.

    Raises UserError: no "=", an unknown key (with the nearest right one), a wrong type, a value out of range.
    """
    types = {field.name: type(field.default) for field in fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r}: not understood, write key=value (see --help)")
        if key not in types:
            raise UserError(f"{key}: unknown key{_near(key, types)}; allowed {', '.join(types)}")
        if key in given:
            raise UserError(f"{key}: given twice")
        given[key] = _value(key, text, types[key])
    return kind(**given)


def usage() -> str:
    """The module's own words and every key with its default."""
    from learner.world_stages import WorldSettings

    lines = [(__doc__ or "").strip()]
    for name, kind in (("world", WorldSettings), ("policy", PolicyCommand)):
        lines += ["", f"{name}:"] + [f"  {field.name}={field.default}" for field in fields(kind)]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _value(key: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{key}: got {text!r}, allowed {'a whole number' if kind is int else 'a number'}") from None
    least = 0 if key in ALLOWED_ZERO else None
    if not math.isfinite(value) or value < 0 or (value == 0 and least is None) or (key in SHARES and value >= 1):
        bounds = "at least 0" if least == 0 else "above 0"
        raise UserError(f"{key}: got {text}, allowed a finite number {bounds}{' and below 1' if key in SHARES else ''}")
    return value


def _near(word: str, names: Any) -> str:
    near = difflib.get_close_matches(word, list(names), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
