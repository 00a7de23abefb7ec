"""The numbers that bring a reward's raw scores to comparable size, measured once on the base policy's own clips."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cluster.errors import UserError
from rewards.checkpoint import read_config, write_config
from rewards.port import ClipBatch
from rewards.registry import BUILT_IN


def measure_normalisation(reward_dir: str | Path, clips: ClipBatch | Iterable[ClipBatch]) -> tuple[float, float]:
    """Scores `clips` and writes shift = mean and scale = between-clip standard deviation into the reward's config.json.

    `clips` are samples of the base policy for its training prompts, as a run scores them (log-mel of the codes).
    -> (shift, scale). Raises UserError where fewer than two clips can be scored or all score alike.
    """
    kind = read_config(reward_dir).get("kind")
    if kind not in BUILT_IN:
        raise UserError(f"{reward_dir}: got kind {kind!r}, allowed {', '.join(BUILT_IN)}")
    model = BUILT_IN[kind](str(reward_dir))
    scores = np.concatenate([model.score(batch) for batch in ([clips] if isinstance(clips, ClipBatch) else clips)])
    scores = scores[np.isfinite(scores)].astype(np.float64)
    if len(scores) < 2 or scores.std() < 1e-6:
        raise UserError(
            f"{reward_dir}: {len(scores)} clips, spread {scores.std() if len(scores) else 0:g}, cannot normalise"
        )
    shift, scale = round(float(scores.mean()), 6), round(float(scores.std(ddof=1)), 6)
    write_config(reward_dir, {**read_config(reward_dir), "shift": shift, "scale": scale})
    return shift, scale
