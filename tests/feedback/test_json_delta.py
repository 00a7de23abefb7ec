from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from feedback.json_delta import apply, delta, same


def objects_of(inner: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.dictionaries(st.sampled_from(["a", "b", "set", "drop", "in"]), inner, max_size=4)


plain = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, -1.5]) | st.sampled_from(["", "a"])
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | objects_of(inner), max_leaves=8)


@given(objects_of(values), objects_of(values))
def test_the_target_is_made_again(base: dict, target: dict) -> None:
    kept = json.loads(json.dumps(delta(base, target)))
    assert same(apply(base, kept), target)


def test_only_what_differs_is_kept() -> None:
    base = {"a": 1, "b": {"c": None, "d": "x"}, "e": 2}
    target = {"a": 1, "b": {"c": None, "d": "y"}, "f": False}
    assert delta(base, base) == {}
    assert delta(base, target) == {"set": {"f": False}, "drop": ["e"], "in": {"b": {"set": {"d": "y"}}}}


def test_numbers_and_truths_are_apart() -> None:
    assert not same({"a": 1}, {"a": True}) and not same([1], [1.0]) and same({"a": 1, "b": 2}, {"b": 2, "a": 1})
