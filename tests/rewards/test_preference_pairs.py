"""The table of votes: reading, refusing, hashing; and the parts that it falls into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from rewards.preference_pairs import A, PairSet, pairs_of_table, read_pairs, write_pairs
from rewards.preference_split import half_of, split_of
from tests.rewards.preference_parts import replaced, votes


def test_a_table_comes_back_as_arrays(tmp_path: Path):
    table = votes(50)
    write_pairs(tmp_path / "v.parquet", table)
    pairs = read_pairs(tmp_path / "v.parquet")
    assert len(pairs) == 50 and pairs.codes_a.shape == (50, 3, 12) and pairs.codes_a.dtype == np.uint16
    assert pairs.codes_b[7].tolist() == table["codes_b"][7].as_py()
    assert (pairs.choices == A).sum() == table["choice"].to_pylist().count("a")
    assert pairs.decided.all()


def test_clips_of_several_lengths_are_padded():
    table = votes(3)
    ragged = [[row[:n] for row in clip] for clip, n in zip(table["codes_a"].to_pylist(), (12, 5, 1), strict=True)]
    pairs = pairs_of_table(replaced(table, "codes_a", ragged))
    assert pairs.frames_a.tolist() == [12, 5, 1] and pairs.frames_b.tolist() == [12, 12, 12]
    assert pairs.codes_a.shape == pairs.codes_b.shape == (3, 3, 12)
    assert pairs.codes_a[1, :, :5].tolist() == ragged[1] and not pairs.codes_a[1, :, 5:].any()


def test_the_hash_knows_the_content_and_not_the_order_or_padding():
    table = votes(40)
    pairs = pairs_of_table(table)
    order = np.random.default_rng(0).permutation(40)
    assert pairs_of_table(table.take(order)).data_hash == pairs.data_hash
    short = pairs.take(np.arange(3))
    padded = np.pad(short.codes_a, ((0, 0), (0, 0), (0, 4)))
    assert PairSet(**{**vars(short), "codes_a": padded}).data_hash == short.data_hash
    turned = ["b" if choice == "a" else "a" for choice in table["choice"].to_pylist()[:1]]
    one_turned = replaced(table, "choice", turned + table["choice"].to_pylist()[1:])
    assert pairs_of_table(one_turned).data_hash != pairs.data_hash
    assert pairs.take(np.arange(39)).data_hash != pairs.data_hash


def test_a_vote_found_twice_counts_once_and_a_contradicted_one_is_refused(tmp_path: Path):
    table = votes(30)
    for name in ("1", "2"):
        write_pairs(tmp_path / name, table)
    once = read_pairs([tmp_path / "1", tmp_path / "2"])
    assert len(once) == 30 and once.data_hash == pairs_of_table(table).data_hash
    other = ["b" if choice == "a" else "a" for choice in table["choice"].to_pylist()]
    with pytest.raises(UserError, match="twice with different contents"):
        pairs_of_table(pa.concat_tables([table, replaced(table, "choice", other)]))


def broken(name: str, tmp_path: Path) -> Path:
    table, path = votes(4), tmp_path / "broken.parquet"
    if name == "cut":
        write_pairs(path, table)
        path.write_bytes(path.read_bytes()[:200])
    elif name == "no column":
        pq.write_table(table.drop_columns(["choice"]), path)
    elif name == "types":
        pq.write_table(table.set_column(2, "codes_a", pa.array([["x"]] * 4)), path)
    elif name == "null":
        pq.write_table(table.set_column(1, "prompt", pa.array(["a", None, "b", "c"])), path)
    elif name == "choice":
        write_pairs(path, replaced(table, "choice", ["a", "left", "b", "b"]))
    elif name == "streams":
        write_pairs(path, replaced(table, "codes_a", [[[1, 2]], [[1, 2], [3, 4]], [[1]], [[2]]]))
    elif name == "lengths":
        write_pairs(path, replaced(table, "codes_a", [[[1, 2], [3]]] * 4))
    elif name == "empty":
        write_pairs(path, table.slice(0, 0))
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "does not exist"),
        ("cut", "no readable Parquet file"),
        ("no column", "lacks the columns choice"),
        ("types", "has other types"),
        ("null", "prompt"),
        ("choice", "got choice 'left', allowed a, b, tie, neither"),
        ("streams", "streams"),
        ("lengths", "empty or of unequal length"),
        ("empty", "no votes"),
    ],
)
def test_a_wrong_file_is_one_line(name: str, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said) as error:
        read_pairs(broken(name, tmp_path))
    assert "\n" not in str(error.value)


def test_no_prompt_is_in_two_parts_and_the_parts_stay_as_votes_are_added():
    pairs = pairs_of_table(votes(900))
    parts = {part: split_of(pairs, part) for part in ("train", "valid", "held_out")}
    assert sum(rows.astype(int) for rows in parts.values()).tolist() == [1] * 900
    prompts = [set(pairs.prompts[rows]) for rows in parts.values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert 0.05 < parts["held_out"].mean() < 0.15
    grown = pairs_of_table(pa.concat_tables([votes(900), votes(300, seed=1)]))
    assert split_of(grown, "held_out")[:900].tolist() == parts["held_out"].tolist()


def test_prompts_that_differ_in_case_and_spaces_only_are_one():
    pairs = pairs_of_table(replaced(votes(4), "prompt", ["Slow piano", "slow  PIANO ", "x", "y"]))
    for part in ("train", "valid", "held_out"):
        rows = split_of(pairs, part, held_out=0.3, valid=0.3)
        assert rows[0] == rows[1]


def test_a_split_by_listener_keeps_listeners_apart_and_halves_share_none():
    pairs = pairs_of_table(votes(600, listeners=60))
    held_out = split_of(pairs, "held_out", "listener", 0.2)
    assert 0 < held_out.mean() < 0.5 and not set(pairs.listeners[held_out]) & set(pairs.listeners[~held_out])
    first, second = half_of(pairs, "first"), half_of(pairs, "second")
    assert (first ^ second).all() and 0.2 < first.mean() < 0.8
    assert not set(pairs.listeners[first]) & set(pairs.listeners[second])
