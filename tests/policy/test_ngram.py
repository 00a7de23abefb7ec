"""Count tables against counting by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cluster.errors import UserError
from policy.ngram import PRIOR, NgramTables, load_ngram


def test_probabilities_by_hand() -> None:
    codes = torch.tensor([[[0, 1, 0, 1], [1, 1, 1, 1]]])  # [1, 2, 4]
    tables = NgramTables.fit(codes, 2)
    # (2 + 1) / (4 + 2) each; in stream 1: (0 + 1) / 6 and (4 + 1) / 6
    torch.testing.assert_close(tables.unigram.exp(), torch.tensor([[0.5, 0.5], [1 / 6, 5 / 6]]))
    # stream 0: after 0 came 1 twice, after 1 came 0 once
    torch.testing.assert_close(tables.bigram_time[0, 0, 1].exp(), torch.tensor((2 + PRIOR * 0.5) / (2 + PRIOR)))
    torch.testing.assert_close(tables.bigram_time[0, 1, 1].exp(), torch.tensor((0 + PRIOR * 0.5) / (1 + PRIOR)))
    torch.testing.assert_close(tables.bigram_frame[0, 0, 1].exp(), torch.tensor((2 + PRIOR * 5 / 6) / (2 + PRIOR)))


def test_bits_of_known_sources() -> None:
    torch.manual_seed(0)
    first = torch.randint(8, (400, 100))
    walk = torch.cat([first[:, :1], (first[:, :1] + torch.arange(1, 100)) % 8], dim=1)
    codes = torch.stack([first, first, walk], dim=1)
    bits = NgramTables.fit(codes, 8).bits_per_token(codes)
    assert math.isclose(bits["unigram"], 3.0, abs_tol=0.01)
    assert math.isclose(bits["bigram_frame"], 2.0, abs_tol=0.02)  # the second stream repeats the first
    assert math.isclose(bits["bigram_time"], 2.01, abs_tol=0.03)  # the third counts on


def test_tables_survive_the_disk(tmp_path: Path) -> None:
    codes = torch.randint(8, (50, 3, 20))
    tables = NgramTables.fit(codes, 8)
    tables.save(tmp_path)
    before, after = tables.bits_per_token(codes), load_ngram(tmp_path).bits_per_token(codes)
    assert all(math.isclose(before[name], after[name], abs_tol=1e-3) for name in before)


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ngram"):
        load_ngram(tmp_path)
    (tmp_path / "ngram.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="allowed tables"):
        load_ngram(tmp_path)
