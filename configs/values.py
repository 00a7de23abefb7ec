"""From what a person wrote (command-line text or YAML) to a value of the right type and range."""

from __future__ import annotations

from typing import Any

import yaml

from configs.errors import UserError
from configs.keys import Key

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_TYPE_TEXT = {
    int: "a whole number",
    float: "a finite number",
    float | None: "a finite number or null",
    str: "text",
    bool: "true or false",
    list[str]: "a list of texts",
    dict[str, Any]: "a mapping",
}


def convert(path: str, value: Any, key: Key) -> Any:
    """`value` as the type of `key`, within its bounds.

    Raises UserError: field, what it got, what it allows.
    """
    try:
        converted = _CONVERTERS[key.type](value)
    except (ValueError, OverflowError):
        raise UserError(f"{path}: got {shown(value)}, allowed {allowed_text(key)}") from None
    if not key.allowed.holds(converted):
        raise UserError(f"{path}: got {shown(value)}, allowed {allowed_text(key)}")
    return converted


def allowed_text(key: Key) -> str:
    """What `key` takes, in words: its type, and its bounds if it has some."""
    bounds = key.allowed.text()
    if key.allowed.choices:
        return bounds
    return _TYPE_TEXT[key.type] + (f", {bounds}" if bounds else "")


def shown(value: Any) -> str:
    """`value` for an error line: quoted if text, on one line, never long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:60] + "…"


def _whole(value: Any) -> int:
    if isinstance(value, str):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError
    if abs(value) >= 2**63:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    """NaN and the infinities go through here: `Allowed.holds` refuses them."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return float(value)


def _number_or_none(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("null", "none", "")):
        return None
    return _number(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return str(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _TRUE + _FALSE:
        raise ValueError
    return word in _TRUE


def _texts(value: Any) -> list[str]:
    """A list, or command-line text: `[*embed*,head.*]`, `*embed*`. No YAML: its * is an alias."""
    if isinstance(value, str):
        inner = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip().strip("'\"") for part in inner.split(",") if part.strip()]
    if not isinstance(value, list):
        raise ValueError
    return [_text(part) for part in value]


def _mapping(value: Any) -> dict[str, Any]:
    """A mapping, or command-line text of one: `{bars: 4}`."""
    if isinstance(value, str):
        value = parse_scalar(value)
    if not isinstance(value, dict):
        raise ValueError
    return value


def parse_scalar(text: str) -> Any:
    """YAML's reading of `text`; the text itself where YAML has none. `6e-5` is a number, unlike in plain YAML 1.1."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_CONVERTERS = {
    int: _whole,
    float: _number,
    float | None: _number_or_none,
    str: _text,
    bool: _flag,
    list[str]: _texts,
    dict[str, Any]: _mapping,
}
