"""Tables of counts over tokens: what a policy's likelihood is compared with.

    unigram        p(code_k)
    bigram_time    p(code_k,t | code_k,t-1)     within a stream, over time
    bigram_frame   p(code_k,t | code_k-1,t)     from the stream above, in the same frame

Bigrams are interpolated with the unigram, with more trust in a context the oftener it was seen:
    p(v | u) = (count(u, v) + c * p(v)) / (count(u) + c).   Source: Jelinek-Mercer with Dirichlet prior smoothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cluster.errors import UserError

FILE = "ngram.safetensors"
PRIOR = 16.0  # c, in observations


class NgramTables:
    """Natural-log probabilities: unigram [K, V], bigram_time [K, V, V], bigram_frame [K - 1, V, V], context first."""

    def __init__(self, unigram: Tensor, bigram_time: Tensor, bigram_frame: Tensor) -> None:
        self.unigram, self.bigram_time, self.bigram_frame = unigram, bigram_time, bigram_frame

    @classmethod
    def fit(cls, codes: Tensor, entries: int) -> NgramTables:
        """Counts over codes [N, K, T] int64, all below `entries`."""
        streams = codes.shape[1]
        ones = torch.stack([torch.bincount(codes[:, k].flatten(), minlength=entries) for k in range(streams)]) + 1.0
        unigram = ones / ones.sum(1, keepdim=True)
        over_time = [_bigram(codes[:, k, :-1], codes[:, k, 1:], unigram[k]) for k in range(streams)]
        in_frame = [_bigram(codes[:, k - 1], codes[:, k], unigram[k]) for k in range(1, streams)]
        return cls(unigram.log(), torch.stack(over_time), torch.stack(in_frame))

    def bits_per_token(self, codes: Tensor) -> dict[str, float]:
        """codes [N, K, T] -> mean of -log2 p by table. Cells without the context are told by the unigram."""
        alone = torch.stack([self.unigram[k][codes[:, k]] for k in range(codes.shape[1])], dim=1)  # [N, K, T]
        over_time, in_frame = alone.clone(), alone.clone()
        for k in range(codes.shape[1]):
            over_time[:, k, 1:] = self.bigram_time[k][codes[:, k, :-1], codes[:, k, 1:]]
            if k:
                in_frame[:, k] = self.bigram_frame[k - 1][codes[:, k - 1], codes[:, k]]
        tables = {"unigram": alone, "bigram_time": over_time, "bigram_frame": in_frame}
        return {name: float(-logs.double().mean()) / math.log(2) for name, logs in tables.items()}

    def save(self, directory: str | Path) -> None:
        """float16: a third of a thousandth of a bit."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_file({name: table.half().contiguous() for name, table in vars(self).items()}, Path(directory) / FILE)


def load_ngram(directory: str | Path) -> NgramTables:
    """Raises UserError where the file is missing, truncated or holds something else."""
    path = Path(directory) / FILE
    try:
        return NgramTables(**{name: table.float() for name, table in load_file(path).items()})
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"ngram: got {path} ({' '.join(str(error).split())}), allowed tables saved by policy.ngram"
        ) from error


def _bigram(context: Tensor, following: Tensor, unigram: Tensor) -> Tensor:
    """[...] contexts and what follows -> log p [V, V]."""
    entries = len(unigram)
    pairs = torch.bincount((context * entries + following).flatten(), minlength=entries**2).view(entries, entries)
    return ((pairs + PRIOR * unigram) / (pairs.sum(1, keepdim=True) + PRIOR)).log()
