"""Words of a caption as numbers: a fixed vocabulary, and hashed buckets for whatever it does not hold."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_WORD = re.compile(r"[a-z0-9#]+(?:'[a-z]+)?")


def words_of(caption: str) -> list[str]:
    """Lower-case words, punctuation dropped; hyphens part words."""
    return _WORD.findall(caption.lower())


class WordTable:
    """Ids: 0 padding, then the vocabulary in its order, then `buckets` hashed ones.

    The hash is CRC-32 of the word's bytes: the same on every machine and in every process.
    """

    def __init__(self, vocabulary: Sequence[str], buckets: int = 64) -> None:
        self.vocabulary = list(vocabulary)
        self.buckets = buckets
        self._ids = {word: index + 1 for index, word in enumerate(self.vocabulary)}

    @classmethod
    def of(cls, captions: Iterable[str], buckets: int = 64) -> WordTable:
        """All words of `captions`, sorted."""
        return cls(sorted({word for caption in captions for word in words_of(caption)}), buckets)

    @property
    def size(self) -> int:
        """Rows of an embedding table."""
        return 1 + len(self.vocabulary) + self.buckets

    def ids(self, caption: str) -> list[int]:
        """One id a word; a caption without words gives a single padding id."""
        found = [self._ids.get(word) or self._bucket(word) for word in words_of(caption)]
        return found or [0]

    def encode(self, captions: Sequence[str], max_words: int = 64) -> Tensor:
        """-> [B, L] int64, padded with 0; L the longest caption's words, at most `max_words`."""
        rows = [self.ids(caption)[:max_words] for caption in captions]
        out = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int64)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return out

    def _bucket(self, word: str) -> int:
        return 1 + len(self.vocabulary) + zlib.crc32(word.encode()) % self.buckets
