"""What one JSON object holds beyond another, so that the first can be made from the second again."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def delta(base: Json, target: Json) -> Json:
    """`apply(base, delta(base, target))` equals `target`, `true` apart from `1` and `1` from `1.0`."""
    kept = [key for key in target if key in base]
    nested = {
        key: delta(base[key], target[key])
        for key in kept
        if isinstance(base[key], dict) and isinstance(target[key], dict) and not same(base[key], target[key])
    }
    changed = {
        key: target[key] for key in target if key not in nested and not (key in base and same(base[key], target[key]))
    }
    dropped = [key for key in base if key not in target]
    return {name: part for name, part in (("set", changed), ("drop", dropped), ("in", nested)) if part}


def apply(base: Json, change: Json) -> Json:
    """See `delta`."""
    dropped = set(change.get("drop", ()))
    result = {key: value for key, value in base.items() if key not in dropped}
    result |= {key: apply(base[key], inner) for key, inner in change.get("in", {}).items()}
    return result | change.get("set", {})


def same(one: Any, other: Any) -> bool:
    """Equal as JSON text, whatever the order of keys."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
