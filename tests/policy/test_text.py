"""Prompts to tokens."""

from __future__ import annotations

import numpy as np
import pytest

from policy.text import PAD, TextTokenizer, default_tokenizer
from world.attributes import draw_attributes
from world.captions import all_words, caption

TOKENIZER = TextTokenizer(("fast", "mid", "mid-tempo", "piano", "slow"), buckets=8, length=5)


def test_words_pads_and_fillers() -> None:
    assert TOKENIZER(["A slow PIANO.", ""]).tolist() == [[5, 4, PAD, PAD, PAD], [PAD] * 5]


def test_a_compound_is_one_word_where_it_is_known_and_its_parts_where_it_is_not() -> None:
    assert TOKENIZER(["mid-tempo"])[0, :2].tolist() == [3, PAD]
    assert TOKENIZER(["slow-fast"])[0, :3].tolist() == [5, 1, PAD]


def test_long_texts_are_cut() -> None:
    assert TOKENIZER(["slow fast piano slow fast piano"]).tolist() == [[5, 1, 4, 5, 1]]


@pytest.mark.parametrize("word", ["theremin", "日本", "ümläut", "808"])
def test_any_word_has_a_bucket_and_always_the_same(word: str) -> None:
    token = int(TOKENIZER([word])[0, 0])
    assert 6 <= token < TOKENIZER.size
    assert token == int(TextTokenizer(TOKENIZER.words, 8, 5)([f"slow {word.upper()}"])[0, 1])


def test_the_default_vocabulary_knows_every_word_of_the_world() -> None:
    tokenizer = default_tokenizer()
    ids = tokenizer([" ".join(all_words())[:0] + word for word in all_words()])
    assert int(ids.max()) <= len(tokenizer.words)  # no bucket


def test_almost_every_caption_of_the_world_fits() -> None:
    rng = np.random.default_rng(0)
    tokens = default_tokenizer()([caption(draw_attributes(rng), rng) for _ in range(500)])
    assert float((tokens[:, -1] != PAD).float().mean()) < 0.03
