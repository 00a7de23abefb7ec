"""Sample a policy on fixed prompts and seeds, and score what is really heard.

Scores are always read from the decoded waveform, phase and all, also where training scores the decoder's
magnitudes: what the listener gets is what counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from codec.port import Codec
from evaluation.clips import Clips, clip_views, join_clips
from evaluation.judges import Embedder
from evaluation.score_rows import MIXTURE, rows_table
from policy.port import Policy, SamplingSettings
from policy.samplers import PolicySampler, sampler_of
from rewards.port import ClipBatch, RewardModel

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # clips done, clips in all
Mixture = Callable[[dict[str, np.ndarray]], np.ndarray]  # raw scores NAME -> [B]  ->  reward [B]


@dataclass(frozen=True)
class Panel:
    """Who scores: the run's rewards, how they mix, and the judges that never enter a reward."""

    rewards: tuple[RewardModel, ...]
    judges: tuple[RewardModel, ...] = ()
    mix: Mixture | None = None
    embedder: Embedder | None = None  # a judge whose space clips are compared in

    @property
    def in_reward(self) -> tuple[str, ...]:
        return (MIXTURE, *(reward.name for reward in self.rewards))

    def score(self, clips: ClipBatch) -> dict[str, np.ndarray]:
        """Raw scores NAME -> [B], and the mixture under the name `reward`."""
        scores = {scorer.name: guarded_scores(scorer, clips) for scorer in (*self.rewards, *self.judges)}
        if self.mix is None or not self.rewards:
            return scores
        return {MIXTURE: self.mix({reward.name: scores[reward.name] for reward in self.rewards}), **scores}

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32; [B, 0] without an embedder."""
        return np.empty((len(clips), 0), np.float32) if self.embedder is None else self.embedder.embed(clips)


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation yields."""

    rows: pa.Table  # evaluation.parquet rows (evaluation.score_rows.SCHEMA)
    codes: np.ndarray  # [N, K, T] uint16 of all clips: all prompts with the first seed, then with the next
    embeddings: np.ndarray  # [N, D] float32 in the space of the panel's embedder; [N, 0] without one
    means: dict[str, float]  # NAME -> mean over all clips that have a score
    clips: Clips  # those kept to listen to: the first seed's, of the first prompts
    scores: dict[str, np.ndarray]  # NAME -> [kept], of those clips


def evaluate_policy(
    policy: Policy,
    codec: Codec,
    panel: Panel,
    prompts: Sequence[str],
    *,
    seconds: float,
    seeds: Sequence[int],
    sampling: SamplingSettings,
    batch_size: int = 32,
    learner_step: int = 0,
    samples: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Sample every prompt once per entry of `seeds`, decode, score.

    The noise of a clip depends on (seed, position of the prompt) only: base and result get the same, whatever the
    batch size. `samples`: sounds kept in the result, of so many prompts; all others are heard by the scorers only.
    """
    sampler = sampler_of(policy)
    work = [(i, prompt, clip_seed(seed, i)) for seed in seeds for i, prompt in enumerate(prompts)]
    keep = min(samples, len(prompts))
    tables, codes, embeddings, scored, kept = [], [], [], [], []
    for start in range(0, len(work), batch_size):
        clips = sample_clips(policy, sampler, codec, work[start : start + batch_size], seconds, sampling)
        views = clip_views(clips)
        scores = panel.score(views)
        tables.append(rows_table(learner_step, clips.prompt_ids, clips.prompts, clips.seeds, scores, panel.in_reward))
        scored.append(scores)
        codes.append(clips.codes)
        embeddings.append(panel.embed(views))
        kept.append(clips.take(range(min(len(clips), max(0, keep - start)))))
        if progress is not None:
            progress(start + len(clips), len(work))
    every = join_scores(scored)
    return Evaluation(
        rows=pa.concat_tables(tables),
        codes=np.concatenate(codes),
        embeddings=np.concatenate(embeddings),
        means={name: finite_mean(values) for name, values in every.items()},
        clips=join_clips([part for part in kept if len(part)]),
        scores={name: values[:keep] for name, values in every.items()},
    )


def sample_clips(
    policy: Policy,
    sampler: PolicySampler,
    codec: Codec,
    work: Sequence[tuple[int, str, int]],
    seconds: float,
    sampling: SamplingSettings,
) -> Clips:
    """Clips for (prompt_id, prompt, seed) triples, sampled and decoded."""
    ids, prompts, seeds = zip(*work, strict=True)
    with torch.no_grad():
        text = policy.encode_text(list(prompts))
        codes, _ = sampler.sample(text, seeds, frames_of(seconds, policy), sampling)
        pcm = decode(policy, codec, codes)
    return Clips(ids, prompts, seeds, codes.numpy().astype(np.uint16), pcm.numpy(), codec.sample_rate_hz)


def decode(policy: Policy, codec: Codec, codes: Tensor) -> Tensor:
    """The sound of the acoustic streams. codes [B, K, T] -> pcm [B, C, N]."""
    acoustic = [row for row, stream in enumerate(policy.streams) if stream.kind == "acoustic"]
    return codec.decode(codes[:, acoustic].long()).clamp(-1.0, 1.0).float()


def guarded_scores(scorer: RewardModel, clips: ClipBatch) -> np.ndarray:
    """-> [B] float32; NaN for a clip on which the scorer raises or answers something that is no number.

    An evaluation reports a broken judge as missing scores; it does not end a run that has trained for hours.
    """
    try:
        scores = np.asarray(scorer.score(clips), dtype=np.float32)
        if scores.shape != (len(clips),):
            raise ValueError(f"{scorer.name}: got scores of shape {scores.shape}, allowed ({len(clips)},)")
    except Exception as error:  # a judge may be anybody's code
        if len(clips) == 1:
            log.warning("%s could not score a clip: %s", scorer.name, error)
            return np.full(1, np.nan, np.float32)
        return np.concatenate([guarded_scores(scorer, clips.take([row])) for row in range(len(clips))])
    return np.where(np.isfinite(scores), scores, np.nan).astype(np.float32)


def clip_seed(seed: int, prompt_id: int) -> int:
    """Noise seed of a prompt's clip: well apart for neighbours, the same on every machine; fits int64."""
    return int(np.random.SeedSequence([seed, prompt_id]).generate_state(1, np.uint64)[0] >> 1)


def frames_of(seconds: float, policy: Policy) -> int:
    return max(1, round(seconds * policy.frame_rate_hz))


def longest_clip_s(policy: Any) -> float:
    """Seconds of the longest clip that a policy plays."""
    shapes = getattr(policy, "shapes", None) or policy.config
    return shapes.max_frames / policy.frame_rate_hz


def finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def join_scores(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
