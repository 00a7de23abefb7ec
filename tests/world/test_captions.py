"""Captions say nothing that is not so, in many words; wrong ones say what is wrong; prompt lists stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from world import captions
from world.attributes import ATTRIBUTES, draw_attributes
from world.captions import all_words, caption, partly_wrong, prompt, words
from world.prompts import combinations, prompts, write_prompts

TABLES = {
    "lead": [captions.LEAD],
    "tempo": [captions.TEMPO_ADJECTIVE, captions.TEMPO_CLAUSE],
    "drums": [captions.DRUMS_CLAUSE],
    "chords": [captions.CHORDS_CLAUSE],
    "register": [captions.REGISTER_ADJECTIVE, captions.REGISTER_CLAUSE],
    "articulation": [captions.ARTICULATION_ADJECTIVE, captions.ARTICULATION_CLAUSE],
}


def _telling_words(name: str) -> dict[str, set[str]]:
    """For each value of an attribute, the words that no other value of it and no other attribute uses."""
    used = {
        (table_name, value): {w for table in tables for phrase in table[value] for w in words(phrase)}
        for table_name, tables in TABLES.items()
        for value in tables[0]
    }
    genres = {w for names in captions.GENRE.values() for phrase in names for w in words(phrase)}
    plain = {w for phrase in captions.PIECE for w in words(phrase)} | {"a", "an", "and", "in", "by", "played"}
    shared = genres | plain | {w for phrase in (*captions.OPENINGS, *captions.ENDINGS) for w in words(phrase)}
    return {
        value: own - shared - {w for key, others in used.items() if key != (name, value) for w in others}
        for (table_name, value), own in used.items()
        if table_name == name
    }


def test_every_value_is_spoken_of_in_its_own_words() -> None:
    for name, values in ATTRIBUTES.items():
        told = _telling_words(name)
        assert set(told) == set(values)
        assert all(len(own) >= 2 for own in told.values()), told


def test_a_caption_says_nothing_untrue() -> None:
    rng = np.random.default_rng(0)
    telling = {name: _telling_words(name) for name in ATTRIBUTES}
    for _ in range(1500):
        attributes = draw_attributes(rng)
        said = set(words(caption(attributes, rng)))
        for name, by_value in telling.items():
            for value, own in by_value.items():
                assert value == attributes[name] or not said & own, (attributes, said & own)


def test_words_are_many_and_all_known() -> None:
    rng = np.random.default_rng(1)
    texts = [prompt(draw_attributes(rng), rng) for _ in range(6000)]
    seen = {word for text in texts for word in words(text)}
    assert seen <= set(all_words())
    assert len(seen) > 200
    assert len(set(texts)) > 5500
    assert max(len(text.split()) for text in texts) <= 60
    assert min(len(words(text)) for text in texts) >= 1


def test_the_same_seed_writes_the_same() -> None:
    attributes = draw_attributes(np.random.default_rng(0))
    assert caption(attributes, np.random.default_rng(5)) == caption(attributes, np.random.default_rng(5))


def test_partly_wrong_captions_name_what_they_swapped() -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(2000):
        attributes = draw_attributes(rng)
        _, swapped, told = partly_wrong(attributes, rng, share=0.35)
        assert swapped == tuple(sorted(name for name in ATTRIBUTES if told[name] != attributes[name]))
        assert all(told[name] in ATTRIBUTES[name] for name in ATTRIBUTES)
        wrong += bool(swapped)
    assert wrong / 2000 == pytest.approx(0.35, abs=0.04)


def test_prompt_lists_are_apart() -> None:
    train, held_out = prompts("train", 800), prompts("eval", 400)
    texts = [row["prompt"] for row in train + held_out]
    assert len(set(texts)) == len(texts)
    asked = [{tuple(row["attributes"].values()) for row in rows} for rows in (train, held_out)]
    assert not asked[0] & asked[1]
    assert len(combinations("train")) + len(combinations("eval")) == 8 * 3 * 3 * 3 * 3 * 2


def test_prompts_are_written_a_line_each(tmp_path: Path) -> None:
    rows = prompts("eval", 5)
    write_prompts(tmp_path / "eval.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()] == rows
