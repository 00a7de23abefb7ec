"""The order of prompts is a pure function of the position."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.prompts import PromptCursor

PROMPTS = [f"prompt {i}" for i in range(10)]
ORDER_OF_SEED_3 = [9, 6, 0, 2, 1, 4, 7, 5, 3, 8, 4, 1]  # numpy's PCG64 permutation of (3, epoch), epochs 0 and 1


@settings(deadline=None, max_examples=50)
@given(start=st.integers(0, 60), n=st.integers(0, 40), cut=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_a_stretch_is_the_same_however_it_is_taken(start: int, n: int, cut: int, seed: int):
    cut = min(cut, n)
    whole = PromptCursor(PROMPTS, seed).take(start, n)
    late = PromptCursor(PROMPTS, seed)
    second = late.take(start + cut, n - cut)
    assert late.take(start, cut) + second == whole


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50))
def test_each_epoch_takes_each_prompt_once(seed: int, epoch: int):
    assert Counter(PromptCursor(PROMPTS, seed).take(10 * epoch, 10)) == Counter(PROMPTS)


def test_epochs_and_seeds_differ_in_order():
    cursor = PromptCursor(PROMPTS, 0)
    assert cursor.take(0, 10) != cursor.take(10, 10)
    assert cursor.take(0, 10) != PromptCursor(PROMPTS, 1).take(0, 10)


def test_the_order_is_the_same_on_every_machine():
    assert PromptCursor(PROMPTS, 3).take(0, 12) == [f"prompt {i}" for i in ORDER_OF_SEED_3]


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="no prompts"):
        PromptCursor([], 0)
