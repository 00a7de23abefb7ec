"""The runs that the guard is tried on: two weak preference models, runs over-trained on one of them, healthy runs."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cluster.errors import RunFailed
from cluster.storage import write_parquet_atomic
from configs.schema import AlarmRules
from evaluation.guard import Watch, kept_checkpoints, watch_run
from evaluation.run_data import read_run
from feedback.ledger import Ledger
from feedback.simulated_guard import GuardSettings, numbers_of
from feedback.simulated_hidden import HiddenUtility

# what changes no run that is there
FREE = ("out", "work", "seeds", "healthy", "presets", "healthy_seeds", "n", "skip", "hidden_seed", "threads")


@dataclass(frozen=True)
class Watched:
    """One run: what its guard said, and what it was worth."""

    name: str
    over_trained: bool
    folder: Path
    watch: Watch
    hidden: dict[int, np.ndarray]  # learner step of a kept checkpoint -> [N] utility of the prompts' clips


class GuardRuns:
    """Everything but the tables."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.folder = settings.folder
        self.ledger = Ledger(self.folder, settings, "guard", FREE)

    def all(self) -> list[Watched]:
        """Whatever is not finished. Raises RunFailed."""
        s = self.settings
        self.ledger.stage("votes", self._votes)
        for half in ("first",) if s.second else ("first", "second"):
            self.ledger.stage(f"preference model, {half} half", partial(self._model, half))
        over = {f"over_{seed}": self.over_words(seed) for seed in numbers_of(s.seeds, "seeds")}
        here = {
            f"{preset}_{seed}": self.preset_words(preset, seed)
            for preset in filter(None, s.presets.split(","))
            for seed in numbers_of(s.healthy_seeds, "healthy_seeds")
        }
        for name, words in {**over, **here}.items():
            self.ledger.stage(f"run {name}", partial(self._run, name, words))
        hidden = HiddenUtility(s)
        found = [self._watched(name, self.run_folder(name), True, hidden) for name in over]
        found += [self._watched(name, self.run_folder(name), False, hidden) for name in here]
        return found + [self._watched(_name_of(place), place, False, hidden) for place in self.healthy_folders()]

    def over_words(self, seed: int) -> list[str]:
        """A run that is paid for a weak preference model alone, too much and too long."""
        s = self.settings
        rewards = [f"rewards.preference.checkpoint={self.model('first')}"]
        kept = [f"evaluation.every={s.every}", f"run.checkpoint_every={s.every}", "run.keep_checkpoints=100000"]
        words = ["preset=tiny_u", *rewards, *kept, *self._common(seed), *s.over.split()]
        return list({word.partition("=")[0]: word for word in words}.values())  # those of `over` win

    def preset_words(self, preset: str, seed: int) -> list[str]:
        return [f"preset={preset}", "run.keep_checkpoints=100000", *self._common(seed)]

    def healthy_folders(self) -> list[Path]:
        """Runs that are there already, finished or not."""
        found = [Path(place) for pattern in self.settings.healthy.split(",") for place in sorted(glob.glob(pattern))]
        return [place for place in found if (place / "evaluation.parquet").is_file()]

    def model(self, half: str) -> Path:
        return self.folder / "preference" / half

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def _common(self, seed: int) -> list[str]:
        s = self.settings
        places = [f"policy.checkpoint={s.policy}", f"codec.checkpoint={s.codec}"]
        prompts = [f"prompts.train={s.prompts}", f"prompts.eval={s.eval_prompts}"]
        guard = [f"guard.second_preference={s.second or self.model('second')}"]
        return [f"run.seed={seed}", "metrics.progress=lines", *places, *prompts, *guard]

    def _votes(self) -> None:
        """The first votes of the table, of which each model reads those of its half of the listeners."""
        s, place = self.settings, Path(self.settings.votes or self.folder / "votes.parquet")
        if not s.votes:
            words = {"out": place, "policy": s.policy, "codec": s.codec, "prompts": s.prompts, "pairs": s.pairs}
            words |= {"seconds": s.seconds, "agreement": s.agreement, "listeners": s.listeners, "temperature": 1.1}
            self.ledger.command("votes", ["feedback.simulated_pairs", *(f"{k}={v}" for k, v in words.items())])
        write_parquet_atomic(self._few, pq.read_table(place).slice(0, s.pairs))

    def _model(self, half: str) -> None:
        s = self.settings
        places = [f"pairs={self._few}", f"policy={s.policy}", f"out={self.model(half)}", "registry=none"]
        how = [f"half={half}", f"steps={s.model_steps}", f"eval_every={max(1, s.model_steps // 2)}", "workers=0"]
        self.ledger.command(f"preference {half}", ["rewards.train", "preference", *places, *how])

    def _run(self, name: str, words: Sequence[str]) -> None:
        """Begins, or goes on from the newest complete checkpoint."""
        place = self.run_folder(name)
        if any(place.glob("checkpoints/step_*/manifest.json")):
            self.ledger.command(f"run {name}", ["learner.main", f"run.resume={place}"])
            return
        shutil.rmtree(place, ignore_errors=True)  # stopped before its first checkpoint
        self.ledger.command(f"run {name}", ["learner.main", f"run.dir={place}", *words])

    def _watched(self, name: str, place: Path, over_trained: bool, hidden: HiddenUtility) -> Watched:
        found = watch_run(read_run(place), AlarmRules())
        if found is None:
            raise RunFailed(f"{name}: {place} holds no evaluation")
        steps = found.history.steps.tolist()
        if not over_trained:  # the start, the end and what is proposed say whether it is healthy
            kept = kept_checkpoints(place)
            steps = [steps[0], *(kept[-1:] if kept else []), *([found.proposal.learner_step] if found.proposal else [])]
        return Watched(name, over_trained, place, found, hidden.of_run(name, place, steps))

    @property
    def _few(self) -> Path:
        return self.folder / "votes_few.parquet"


def _name_of(place: Path) -> str:
    """runs/study/seed_0/runs/U -> seed_0 U; any other folder by its own name."""
    return f"{place.parent.parent.name} {place.name}" if place.parent.name == "runs" else place.name
