"""Prompt lists for reinforcement learning and evaluation, apart from each other in wording and in what they ask for."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np

from world.attributes import ATTRIBUTES, Attributes
from world.captions import prompt

EVAL_SHARE = 0.25


def combinations(part: str) -> list[Attributes]:
    """All attribute combinations of `part` ("train" or "eval"): a fixed quarter is asked for in evaluation only."""
    every = [dict(zip(ATTRIBUTES, values, strict=True)) for values in itertools.product(*ATTRIBUTES.values())]
    return [combination for combination in every if (_place(combination) < EVAL_SHARE) == (part == "eval")]


def prompts(part: str, count: int, seed: int = 0) -> list[dict]:
    """`count` different prompts, as rows {"prompt", "attributes"}; no text occurs twice."""
    rng = np.random.default_rng((seed, {"train": 11, "eval": 12}[part]))
    pool = combinations(part)
    rows: dict[str, Attributes] = {}
    while len(rows) < count:
        attributes = pool[int(rng.integers(len(pool)))]
        rows.setdefault(prompt(attributes, rng), attributes)
    return [{"prompt": text, "attributes": attributes} for text, attributes in rows.items()]


def write_prompts(path: str | Path, rows: list[dict]) -> None:
    """JSONL, one prompt a line: {"prompt": text, "attributes": {...}}."""
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _place(combination: Attributes) -> float:
    digest = hashlib.sha256("/".join(combination.values()).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
