"""Which attributes a prompt names: "a nimble fiddle tune, no drums" -> tempo fast, lead violin, drums none.

Reads the phrase tables of world.captions backwards, longest phrase first, so that "at high speed" names a tempo and
no register. Words outside the tables name nothing.
"""

from __future__ import annotations

import functools

from world import captions
from world.attributes import ATTRIBUTES, Attributes

_TABLES = (
    ("lead", captions.LEAD),
    ("tempo", captions.TEMPO_ADJECTIVE),
    ("tempo", captions.TEMPO_CLAUSE),
    ("drums", captions.DRUMS_CLAUSE),
    ("chords", captions.CHORDS_CLAUSE),
    ("register", captions.REGISTER_ADJECTIVE),
    ("register", captions.REGISTER_CLAUSE),
    ("articulation", captions.ARTICULATION_ADJECTIVE),
    ("articulation", captions.ARTICULATION_CLAUSE),
)


def named_attributes(prompt: str) -> Attributes:
    """The attributes that `prompt` names, in the order of ATTRIBUTES; the first mention of each counts."""
    words = captions.words(prompt)
    found: list[tuple[int, str, str]] = []
    phrases, longest = _phrases()
    position = 0
    while position < len(words):
        for length in range(min(longest, len(words) - position), 0, -1):
            hit = phrases.get(tuple(words[position : position + length]))
            if hit:
                found.append((position, *hit))
                position += length - 1
                break
        position += 1
    return {
        name: next(v for _, n, v in found if n == name) for name in ATTRIBUTES if any(n == name for _, n, _ in found)
    }


def compatible(named: Attributes, attributes: Attributes) -> bool:
    """Whether a clip with `attributes` fulfils everything named."""
    return all(attributes[name] == value for name, value in named.items())


@functools.lru_cache(maxsize=1)
def _phrases() -> tuple[dict[tuple[str, ...], tuple[str, str]], int]:
    """Word tuples -> (attribute, value), and the length of the longest. A phrase of two meanings is left out."""
    meanings: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for name, table in _TABLES:
        for value, options in table.items():
            for option in options:
                for form in (option, option.removeprefix("with ").removeprefix("over ")):
                    meanings.setdefault(tuple(captions.words(form)), set()).add((name, value))
    phrases = {words: next(iter(found)) for words, found in meanings.items() if len(found) == 1}
    return phrases, max(map(len, phrases))
