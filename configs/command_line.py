"""What the commands with a few settings share: `key=value` words over a dataclass, and how a command ends."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields, replace
from typing import Any, TypeVar

from configs.errors import UserError
from configs.keys import Key
from configs.setting import allowed_of, meaning_of
from configs.values import convert

Settings = TypeVar("Settings")
MAY_BE_ZERO = ("seed", "warmup_steps", "weight_decay", "caption_dropout", "dropout", "min_heard_s")
SHARES = ("caption_dropout", "dropout")


def parse_settings(words: Sequence[str], defaults: Settings) -> Settings:
    """`key=value` words over a dataclass instance whose fields are str, bool, int or float -> a changed copy.

    A field made by configs.setting is held to its own bounds. Raises UserError: no "=", an unknown key (with the
    nearest right one), a wrong type, a value out of range.
    """
    kinds = {field.name: field for field in fields(defaults)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r}: not understood, write key=value (see --help)")
        if key not in kinds:
            raise UserError(f"{key}: unknown key{nearest(key, kinds)}; allowed {', '.join(kinds)}")
        if key in given:
            raise UserError(f"{key}: given twice")
        given[key] = _value(key, text, getattr(defaults, key), kinds[key])
    return replace(defaults, **given)  # type: ignore[type-var]


def nearest(word: str, names: Iterable[str]) -> str:
    """ ", did you mean NAME?", or nothing."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f", did you mean {near[0]}?" if near else ""


def exit_status_of(work: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Does the work -> what it returns (None: 0), or the status of its failure, whose one line goes to stderr.

    2: input that cannot be used; 1: started and failed; 130: interrupted.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        status = getattr(error, "exit_status", None)  # UserError and cluster.errors.RunFailed carry one
        if status is None:
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        return int(status)


def run_long_command(argv: Sequence[str], help_text: str, work: Callable[[], None]) -> int:
    """main of a command that may take hours and goes on where it was stopped -> its exit status.

    0; 1 where a stage failed; 2 with one line for input that cannot be used; 130 when interrupted.
    """
    if argv and argv[0] in ("-h", "--help", "help"):
        print(help_text)
        return 0
    return exit_status_of(work, "interrupted: the same command goes on")


def _value(key: str, text: str, default: Any, field: Field) -> Any:
    kind = type(default)
    if field.metadata:
        return convert(key, text, Key(key, kind, default, meaning_of(field), allowed_of(field)))
    if kind is str:
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{key}: got {text!r}, allowed true or false")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{key}: got {text!r}, allowed {'a whole number' if kind is int else 'a number'}") from None
    zero = key in MAY_BE_ZERO
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero) or (key in SHARES and value >= 1):
        bounds = "at least 0" if zero else "above 0"
        raise UserError(f"{key}: got {text}, allowed a finite number {bounds}{' and below 1' if key in SHARES else ''}")
    return value
