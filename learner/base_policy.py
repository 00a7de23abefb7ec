"""The base policy of a token dataset: material, shapes, training, and the count tables that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.supervised import Material, SupervisedSettings, SupervisedTraining, bits_per_token
from policy.checkpoint import load_policy, save_policy
from policy.ngram import NgramTables
from policy.port import Stream
from policy.text import default_tokenizer
from policy.tiny_musiclm import TinyMusicLM, TinyMusicLMConfig
from world.tokens import DAMAGED_SHARE, WRONG_SHARE, TokenSet

ENTRIES = 256  # of the semantic stream and of every acoustic level
TRAINING_FACTS = "training.json"


def train_base_policy(
    tokens: TokenSet, directory: str | Path, settings: SupervisedSettings, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Trains on the split "train", reports on "valid", writes the policy and training.json; -> what the latter holds.

    Stored in half precision: what is loaded again is what was written.
    """
    torch.manual_seed(settings.seed)
    policy = TinyMusicLM(TinyMusicLMConfig(streams=streams_of(tokens)), default_tokenizer())
    train, valid = material(tokens, "train"), material(tokens, "valid")
    say(f"policy: {sum(p.numel() for p in policy.parameters()):,} parameters, {len(train):,} sequences")
    facts = SupervisedTraining(policy, train, valid, directory, settings, say).run()
    facts |= declared(tokens)
    save_policy(policy, directory, torch.float16)
    (Path(directory) / TRAINING_FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def declared(tokens: TokenSet) -> dict[str, Any]:
    """What the material was meant to be and what it came to be, for the model card."""
    rows = tokens.rows("train")
    damaged = float(np.mean([tokens.damage[row] != "clean" for row in rows]))
    wrong = float(np.mean([bool(tokens.swapped[row]) for row in rows]))
    shares = {"degraded_share": DAMAGED_SHARE, "wrong_caption_share": WRONG_SHARE}
    return shares | {"degraded_share_drawn": round(damaged, 4), "wrong_caption_share_drawn": round(wrong, 4)}


def fit_ngrams(tokens: TokenSet, directory: str | Path) -> NgramTables:
    """Count tables of the same material."""
    tables = NgramTables.fit(tokens.batch(tokens.rows("train")), ENTRIES)
    tables.save(directory)
    return tables


def measure_likelihood(
    policy_dir: str | Path, tables: NgramTables, tokens: TokenSet, split: str = "test"
) -> dict[str, float]:
    """Bits a token on a split: true captions, shuffled captions, no caption, by stream, and the count tables'."""
    policy, clips = load_policy(policy_dir), material(tokens, split)
    captions = list(clips.captions)
    by_stream = bits_per_token(policy, clips.codes, captions)
    figures = {"policy": float(by_stream.mean())}
    figures["shuffled_captions"] = float(bits_per_token(policy, clips.codes, captions[7:] + captions[:7]).mean())
    figures["no_caption"] = float(bits_per_token(policy, clips.codes, [""] * len(captions)).mean())
    figures |= {f"stream_{k}": float(bits) for k, bits in enumerate(by_stream)}
    return figures | tables.bits_per_token(torch.from_numpy(clips.codes.astype(np.int64)))


def material(tokens: TokenSet, split: str) -> Material:
    """The sequences of a split."""
    rows = tokens.rows(split)
    return Material(tokens.codes[rows], [tokens.captions[row] for row in rows])


def streams_of(tokens: TokenSet) -> tuple[Stream, ...]:
    """Semantic first, then acoustic."""
    return (Stream("semantic", ENTRIES), *(Stream("acoustic", ENTRIES) for _ in range(tokens.codes.shape[1] - 1)))
