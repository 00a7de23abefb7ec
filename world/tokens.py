"""The corpus as tokens: row 0 semantic, rows 1 to 4 acoustic, 25 frames a second, and the caption paired with them.

Kind "clean" is every clip as it is, with its true caption: for rewards, judges and likelihoods. Kind "mixed" is what
the base policy learns from: some of the clips damaged, some of the captions partly wrong, each flagged as such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cluster.errors import UserError
from codec.log_mel import HOP
from codec.port import Codec
from codec.semantic import SemanticTokenizer
from world.captions import partly_wrong
from world.corpus import SPLITS, Corpus, CorpusSplit
from world.degradations import CLEAN, mixed_quality

KINDS = ("clean", "mixed")
DAMAGED_SHARE = 0.4  # of the clips of kind "mixed"
WRONG_SHARE = 0.35  # of the captions of kind "mixed"
BATCH = 32


@dataclass(frozen=True)
class TokenSet:
    """Encoded clips. `codes` uint8 [n, 5, 100]; lists of length n.

    `damage` is the kind of damage ("clean" for none) and `severity` its strength; `swapped` names the attributes that
    the caption tells wrongly ("" for none, else joined by commas); `variant` counts the versions of one clip.
    """

    codes: np.ndarray
    clip_ids: list[str]
    splits: list[str]
    captions: list[str]
    damage: list[str]
    severity: np.ndarray
    swapped: list[str]
    variant: np.ndarray
    codec_version: str
    semantic_version: str

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero(np.asarray(self.splits) == split)

    def batch(self, rows: np.ndarray | Tensor | list[int]) -> Tensor:
        """int64 [B, 5, 100]."""
        return torch.from_numpy(self.codes[np.asarray(rows)].astype(np.int64))


def token_path(directory: str | Path, kind: str) -> Path:
    return Path(directory) / f"tokens_{kind}.npz"


def encode_corpus(
    corpus: Corpus,
    codec: Codec,
    semantic: SemanticTokenizer,
    directory: str | Path,
    seed: int = 0,
    variants: int = 2,
    say: Callable[[str], None] = print,
) -> dict[str, Path]:
    """Writes tokens_clean.npz and tokens_mixed.npz; `variants` versions of each training clip in the latter.

    Parts that exist and were made by these very models are kept. -> path of each kind.
    """
    paths = {kind: token_path(directory, kind) for kind in KINDS}
    for kind, path in paths.items():
        if path.exists() and _made_by(path) == (codec.version, semantic.version):
            continue
        parts = []
        for split in SPLITS:
            for variant in range(variants if kind == "mixed" and split == "train" else 1):
                say(f"tokens: {kind}, {split}, version {variant}")
                rng = np.random.default_rng((seed, KINDS.index(kind), SPLITS.index(split), variant))
                parts.append(_encode_split(corpus.split(split), split, kind, variant, codec, semantic, rng))
        _save(path, parts, codec.version, semantic.version)
    return paths


def load_tokens(path: str | Path) -> TokenSet:
    """Raises UserError where the file is missing or is no token file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return TokenSet(
                codes=file["codes"],
                clip_ids=file["clip_ids"].tolist(),
                splits=file["splits"].tolist(),
                captions=file["captions"].tolist(),
                damage=file["damage"].tolist(),
                severity=file["severity"],
                swapped=file["swapped"].tolist(),
                variant=file["variant"],
                codec_version=str(file["codec_version"]),
                semantic_version=str(file["semantic_version"]),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"tokens: got {path} ({error}), allowed a file written by world.tokens") from error


def encode_batch(pcm: Tensor, codec: Codec, semantic: SemanticTokenizer) -> Tensor:
    """pcm [B, N] at 16 kHz -> semantic and acoustic tokens [B, 1 + K, T]."""
    tokens = semantic.encode(pcm[:, None])
    codes = codec.encode(pcm[:, None])
    return torch.cat([tokens, codes], 1)


def _encode_split(
    clips: CorpusSplit,
    split: str,
    kind: str,
    variant: int,
    codec: Codec,
    semantic: SemanticTokenizer,
    rng: np.random.Generator,
) -> dict[str, list]:
    part: dict[str, list] = {"codes": [], "damage": [], "severity": []}
    for first in range(0, len(clips), BATCH):
        pcm = clips.pcm(range(first, min(first + BATCH, len(clips))))
        damage, severity = [CLEAN] * len(pcm), torch.zeros(len(pcm))
        if variant:
            pcm = _shifted(pcm, rng)
        if kind == "mixed":
            pcm, damage, severity = mixed_quality(pcm, rng, DAMAGED_SHARE)
        part["codes"] += [encode_batch(pcm, codec, semantic).to(torch.uint8).numpy()]
        part["damage"] += damage
        part["severity"] += severity.tolist()
    told: list[tuple[str, tuple[str, ...]]] = [(text, ()) for text in clips.captions]
    if kind == "mixed":
        told = [partly_wrong(attributes, rng, WRONG_SHARE)[:2] for attributes in clips.attributes]
    part |= {"captions": [text for text, _ in told], "swapped": [",".join(names) for _, names in told]}
    return part | {"clip_ids": clips.clip_ids, "splits": [split] * len(clips), "variant": [variant] * len(clips)}


def _shifted(pcm: Tensor, rng: np.random.Generator) -> Tensor:
    """Each clip up to a frame later: the same music on another grid of frames, so other tokens."""
    shift = rng.integers(0, 2 * HOP, size=len(pcm)).tolist()
    return torch.stack([torch.cat([row.new_zeros(s), row[: len(row) - s]]) for row, s in zip(pcm, shift, strict=True)])


def _save(path: Path, parts: list[dict[str, list]], codec_version: str, semantic_version: str) -> None:
    joined = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    arrays = {name: np.asarray(values) for name, values in joined.items() if name != "codes"}
    arrays |= {"codes": np.concatenate(joined["codes"]), "severity": arrays["severity"].astype(np.float32)}
    arrays |= {"codec_version": np.asarray(codec_version), "semantic_version": np.asarray(semantic_version)}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.rename(path)


def _made_by(path: Path) -> tuple[str, str]:
    with np.load(path, allow_pickle=False) as file:
        return str(file["codec_version"]), str(file["semantic_version"])
