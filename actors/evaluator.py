"""The evaluator: a generator on fixed prompts and seeds, whose clips are scored, heard and never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from actors.published import PublishedWeights
from cluster.weight_bus import Publication
from codec.checkpoint import load_codec
from configs.schema import Config
from evaluation.evaluate import Evaluation, Panel, evaluate_policy
from evaluation.panel import load_panel
from evaluation.prompt_diversity import diversity_rows
from evaluation.sample_folder import write_samples
from evaluation.score_rows import DIVERSITY
from policy.checkpoint import load_policy
from policy.port import SamplingSettings


@dataclass(frozen=True)
class EvaluationSummary:
    """What `Evaluator.evaluate` hands back; the caller keeps `rows` (evaluation.score_rows.append_rows)."""

    learner_step: int
    epoch: str
    means: dict[
        str, float
    ]  # judge -> mean raw score over the evaluation prompts; `reward` is the mixture, `diversity` a distance
    in_reward: tuple[str, ...]  # which of them the run trains on
    rows: pa.Table  # score_rows.SCHEMA
    samples_dir: str


class Evaluator:
    """Scores each published policy with the run's rewards and the held-out judges, and writes clips to listen to.

    consumes a Publication of the weight bus; produces an EvaluationSummary and samples/step_N/; writes nothing else.
    The same publication and step give the same rows and files, so a repeat after a crash does no harm.
    """

    def __init__(self, config: Config, prompts: tuple[str, ...], epoch: str, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._epoch = epoch
        self._prompts = tuple(prompts[: config.evaluation.prompts])
        self._policy = load_policy(config.policy.checkpoint)
        self._weights = PublishedWeights(self._policy)
        self._codec = load_codec(config.codec.checkpoint)
        self._panel: Panel = load_panel(config.rewards, config.evaluation.judges, config.guard.second_preference)

    def evaluate(self, publication: Publication, learner_step: int, run_dir: str) -> EvaluationSummary:
        """Evaluate the published weights as checkpoint `learner_step`."""
        self._weights.load(publication)
        result = self._sample_and_score(learner_step)
        folder = write_samples(Path(run_dir), learner_step, result.clips, result.scores)
        apart = self._diversity(learner_step, result)
        means = result.means | ({DIVERSITY: float(np.mean(apart["score"]))} if len(apart) else {})
        rows = pa.concat_tables([result.rows, apart])
        return EvaluationSummary(learner_step, self._epoch, means, self._panel.in_reward, rows, str(folder))

    def _sample_and_score(self, learner_step: int) -> Evaluation:
        settings = self._config.evaluation
        return evaluate_policy(
            self._policy,
            self._codec,
            self._panel,
            self._prompts,
            seconds=settings.seconds,
            seeds=[settings.seed],
            sampling=self._sampling,
            batch_size=settings.batch_size,
            learner_step=learner_step,
            samples=settings.samples,
        )

    def _diversity(self, learner_step: int, result: Evaluation) -> pa.Table:
        """Rows of DIVERSITY: more clips of the first prompts beside the one that `result` has of each."""
        settings, guard = self._config.evaluation, self._config.guard
        return diversity_rows(
            self._policy,
            self._codec,
            self._panel.embedder,
            self._prompts[: guard.diversity_prompts],
            result,
            seeds=range(settings.seed, settings.seed + guard.diversity_samples),
            seconds=settings.seconds,
            sampling=self._sampling,
            batch_size=settings.batch_size,
            learner_step=learner_step,
        )

    @property
    def _sampling(self) -> SamplingSettings:
        return SamplingSettings(self._config.sampling.temperature, self._config.sampling.guidance_scale)
