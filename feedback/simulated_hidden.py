"""The hidden utility of the simulated listeners at each kept checkpoint of a run: for measuring, never for tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.storage import write_parquet_atomic
from codec.checkpoint import load_codec
from configs.prompts import load_prompts
from evaluation.evaluate import clip_seed, frames_of
from evaluation.guard import kept_checkpoints
from feedback.simulated_utility import SimulatedUtility
from policy.checkpoint import load_policy
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from rewards.port import ClipBatch

if TYPE_CHECKING:
    from feedback.simulated_guard import GuardSettings

BATCH = 32
TEMPERATURE = 0.99  # of the runs' own evaluations


class HiddenUtility:
    """Clips of the same prompts with the same noise for every policy, heard as those that were voted on: through the
    decoder's magnitudes."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        skip = int(settings.skip)
        every = load_prompts(settings.eval_prompts, field="eval_prompts")
        self._prompts = every[skip : skip + settings.n]
        self._utility = SimulatedUtility(settings.listeners)
        self._codec = load_codec(settings.codec)

    def of_run(self, name: str, place: Path, steps: list[int]) -> dict[int, np.ndarray]:
        """Evaluated steps whose checkpoint is kept -> [N]. What was measured is kept in the work folder."""
        torch.set_num_threads(self._settings.threads)
        found = {}
        for step in sorted(set(steps) & set(kept_checkpoints(place))):
            print(f"guard: hidden utility of {name}, step {step}", flush=True)
            found[step] = self._kept(name, place, step)
        return found

    def _kept(self, name: str, place: Path, step: int) -> np.ndarray:
        s = self._settings
        kept = s.folder / "hidden" / f"{name.replace(' ', '_')}_{step}_{s.n}_{s.skip}_{s.hidden_seed}.parquet"
        if not kept.is_file():
            scores = self.of_policy(place / "checkpoints" / f"step_{step}" / "policy")
            write_parquet_atomic(kept, pa.table({"prompt": self._prompts, "simulated_utility": scores}))
        return pq.read_table(kept)["simulated_utility"].to_numpy().astype(np.float64)

    def of_policy(self, folder: Path) -> np.ndarray:
        """-> [N] utility of one clip of each prompt."""
        policy = load_policy(folder)
        sampler, frames = sampler_of(policy), frames_of(self._settings.seconds, policy)
        acoustic = [row for row, stream in enumerate(policy.streams) if stream.kind == "acoustic"]
        seeds = [clip_seed(int(self._settings.hidden_seed), place) for place in range(len(self._prompts))]
        parts = []
        for start in range(0, len(self._prompts), BATCH):
            rows = slice(start, start + BATCH)
            prompts = tuple(self._prompts[rows])
            with torch.no_grad():
                text = policy.encode_text(list(prompts))
                codes, _ = sampler.sample(text, seeds[rows], frames, SamplingSettings(TEMPERATURE, 1.0))
                mel = self._codec.decode_log_mel(codes[:, acoustic].long()).float().numpy()
            parts.append(self._utility.score(ClipBatch(prompts, self._codec.sample_rate_hz, log_mel=mel)))
        return np.concatenate(parts)
