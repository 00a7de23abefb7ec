"""Tunes: what is taken from an ABC file, what is left out for its rights, and that related tunes stay together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from world.tunes import Tune, parse_file, source_is_free, split_by_tune

REEL = """X: 1
T:Test -- Reel
M:2/4
L:1/8
B:Ryan's Mammoth Collection
K:G
D | GABc dcBA | GABc d2 d2 | edcB AGFE | D2 D2 G2 G2 | GABc dcBA | GABc d2 d2 | GABc dcBA |
"""
SHARES = {"train": 0.6, "judge": 0.25, "valid": 0.05, "test": 0.1}


def _words(number: int) -> str:
    """A title without digits."""
    return "".join(chr(97 + int(digit)) for digit in str(number))


def _tune(name: str, title: str, pitches: list[int]) -> Tune:
    notes = tuple((float(i), 1.0, pitch) for i, pitch in enumerate(pitches))
    return Tune(name, title, "ryansMammoth", 0, False, 2.0, False, notes)


def test_a_tune_is_read_with_key_bars_and_pickup(tmp_path: Path) -> None:
    path = tmp_path / "Test.abc"
    path.write_text(REEL)
    tune = parse_file(str(path))
    assert tune is not None
    assert (tune.tune_id, tune.tonic, tune.minor, tune.bar_quarters, tune.compound) == ("Test", 7, False, 2.0, False)
    assert tune.notes[0][2] == 62  # the pickup D, before the first bar line
    assert tune.notes[0][0] < 0
    assert tune.notes[1][:2] == (0.0, 0.5)
    assert tune.notes[1][2] == 67


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("B:Ryan's Mammoth Collection", True),
        ("B: Ryan's Mammoth Collection of Fiddle Tunes", True),
        ("S:somewhere", True),
        ("B:Cole's 1000 Fiddle Tunes", False),
        ("N:Copyright 1998 by the transcriber", False),
        ("N:by permission only", False),
        ("N:(c) 2001", False),
    ],
)
def test_only_what_is_clearly_free_is_taken(line: str, free: bool) -> None:
    assert source_is_free(f"X:1\nT:Tune\n{line}\nK:G\nGABc|") is free


def test_a_file_that_is_not_free_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "Cole.abc"
    path.write_text(REEL.replace("Ryan's Mammoth Collection", "Cole's 1000 Fiddle Tunes"))
    assert parse_file(str(path)) is None


def test_splits_keep_whole_tunes_in_their_shares() -> None:
    rng = random.Random(0)
    tunes = [_tune(f"t{i:03d}", f"title {_words(i)}", [rng.randrange(50, 80) for _ in range(30)]) for i in range(200)]
    splits = split_by_tune(tunes, SHARES, random.Random(1).shuffle)
    names = [tune.tune_id for split in splits.values() for tune in split]
    assert sorted(names) == sorted(tune.tune_id for tune in tunes)
    for split, share in SHARES.items():
        assert abs(len(splits[split]) - 200 * share) <= 2


def test_same_title_or_same_opening_in_another_key_shares_a_split() -> None:
    rng = random.Random(0)
    tunes = [_tune(f"t{i:03d}", f"title {_words(i)}", [rng.randrange(50, 80) for _ in range(30)]) for i in range(60)]
    twins = [
        _tune(f"u{i:03d}", f"other {_words(i)}", [p + 5 for _, _, p in tune.notes]) for i, tune in enumerate(tunes)
    ]
    titled = [_tune(f"v{i:03d}", f"The Title {_words(i)} -- Reel", list(range(i, i + 30))) for i in range(60)]
    splits = split_by_tune([*tunes, *twins, *titled], SHARES, random.Random(2).shuffle)
    home = {tune.tune_id: split for split, members in splits.items() for tune in members}
    assert all(home[f"t{i:03d}"] == home[f"u{i:03d}"] for i in range(60))
    assert len({home[f"v{i:03d}"] for i in range(60)}) == 1  # one opening: a scale up, in every key


def test_a_tune_between_two_families_joins_them() -> None:
    """b shares a's title and c's opening: all three must share a split."""
    low, high = list(range(50, 80)), [60 + (i * 7) % 13 for i in range(30)]
    trio = [_tune("a", "lark", low), _tune("c", "wren", high), _tune("d", "lark", high)]
    rest = [_tune(f"r{i}", f"rest {_words(i)}", [50 + (j * (i + 2)) % 29 for j in range(30)]) for i in range(40)]
    for seed in range(6):
        splits = split_by_tune([*trio, *rest], SHARES, random.Random(seed).shuffle)
        home = {tune.tune_id: split for split, members in splits.items() for tune in members}
        assert home["a"] == home["c"] == home["d"]
