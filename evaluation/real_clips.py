"""Real clips of test tunes, as the yardstick: the best that any policy behind this codec could sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from codec.port import Codec
from evaluation.clips import pcm_views
from evaluation.evaluate import Panel, Progress, join_scores
from evaluation.test_set import TestSet
from rewards.prompt_attributes import compatible, named_attributes

FEWEST_NAMED = 3  # a prompt that names fewer attributes fits too many clips to say how alike its clips may be


@dataclass(frozen=True)
class RealScores:
    """Real clips under the panel: with their own captions, with the captions of others, and in the judges' space."""

    own: dict[str, np.ndarray]  # NAME -> [N]
    shuffled: dict[str, np.ndarray]  # NAME -> [N]
    embeddings: np.ndarray  # [N, D]


def score_real_clips(
    clips: TestSet, codec: Codec, panel: Panel, seconds: float, batch_size: int = 32, progress: Progress | None = None
) -> RealScores:
    """Decode and score, each clip once with its own caption and once with another clip's."""
    frames = min(clips.codes.shape[-1], round(seconds * codec.frame_rate_hz))
    order = np.random.default_rng(0).permutation(len(clips))
    other = np.empty(len(order), np.int64)
    other[order] = np.roll(order, 1)  # one cycle through all clips: none keeps its own caption
    own, shuffled, embeddings = [], [], []
    for start in range(0, len(order), batch_size):
        rows = range(start, min(start + batch_size, len(order)))
        with torch.no_grad():
            pcm = codec.decode(clips.codes[rows, 1:, :frames]).clamp(-1.0, 1.0).float().numpy()
        codes = clips.codes[rows, :, :frames].numpy().astype(np.uint16)
        views = pcm_views([clips.captions[i] for i in rows], pcm, codec.sample_rate_hz, codes)
        own.append(panel.score(views))
        shuffled.append(panel.score(replace(views, prompts=tuple(clips.captions[other[i]] for i in rows))))
        embeddings.append(panel.embed(views))
        if progress is not None:
            progress(rows.stop, len(order))
    return RealScores(join_scores(own), join_scores(shuffled), np.concatenate(embeddings))


def fitting_clips(prompts: Sequence[str], clips: TestSet) -> dict[int, list[int]]:
    """Real clips of one caption: for each prompt, the clips whose attributes fulfil all that the prompt names.

    Prompts that name fewer than FEWEST_NAMED attributes, or that fewer than two clips fit, are left out.
    -> position of the prompt -> rows of `clips`.
    """
    found = {}
    for position, prompt in enumerate(prompts):
        named = named_attributes(prompt)
        rows = [row for row, attributes in enumerate(clips.attributes) if compatible(named, attributes)]
        if len(named) >= FEWEST_NAMED and len(rows) > 1:
            found[position] = rows
    return found
