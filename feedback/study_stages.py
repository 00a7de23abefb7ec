"""The stages of a study, in order, each a command of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from cluster.errors import RunFailed
from cluster.storage import write_parquet_atomic
from evaluation.main import newest_policy
from feedback.ledger import Ledger
from feedback.simulated_compare import CompareSettings, compare_policies
from feedback.simulated_pairs import heard_votes
from feedback.study_settings import StudySettings

FULL = "full"
SYSTEMS = ("base", "joint", "R", "U", "RU")  # from the one expected to be worst to the best
# Variants of the preference model, by name: more words. The paper's crops are 10 s and 3 to 5 s of 20 s.
VARIANTS = {
    FULL: "",
    "no text": "text=false",
    "half the clip": "crop_s={half}",
    "fifth of the clip": "crop_s={fifth}",
    "from scratch": "scratch=true",
}
OVER = ("quality alone", "preference, no KL")
ONE_PASS = ("epochs=1", "patience=0")  # every vote once, as 10,000 steps of 32 are on the paper's 285,000 (section 3.3)
SECOND = "second"
OTHER_SEED = 1000  # of the second panel: far from every seed of a study


class Stages:
    """Everything of one seed but its tables."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self.folder = settings.folder
        self.ledger = Ledger(self.folder, settings)

    def all(self) -> None:
        """Whatever is not finished. Raises RunFailed."""
        self.ledger.stage("pairs", self._pairs)
        others = [name for name in VARIANTS if name != FULL] if self.settings.ablations else []
        models, ablations = self._preferences([FULL]), self._preferences(others)
        models["preference model of the second panel"] = self._second_preference
        self.ledger.side_by_side(models, self.settings.jobs)
        judged, driven = (
            {name: words for name, words in self.runs().items() if (name in OVER) == over} for over in (False, True)
        )
        self._run_all(judged)
        self.ledger.stage("raters", self._raters)
        self.ledger.side_by_side(ablations, self.settings.jobs)
        self._run_all(driven)

    def runs(self) -> dict[str, Callable[[], list[str]]]:
        """Name -> the words of its run; functions, because RU needs R's policy, which is there only after R."""
        reward, guard = self._reward(), f"guard.second_preference={model_folder(self.settings, SECOND)}"
        recorded = ["rewards.preference.weight=0", reward, guard]
        runs: dict[str, Callable[[], list[str]]] = {
            "R": lambda: ["preset=tiny_r", self._base(), *recorded],
            "U": lambda: ["preset=tiny_u", self._base(), reward, guard],
            "RU": lambda: ["preset=tiny_ru", f"policy.checkpoint={self.policy('R')}", reward, guard],
            "joint": lambda: ["preset=tiny_joint", self._base(), reward, guard],
        }
        if self.settings.over:
            quality = ["rewards.text_adherence.weight=0", "rewards.quality.weight=1"]
            runs |= {
                OVER[0]: lambda: ["preset=tiny_r", self._base(), *quality, *recorded],
                OVER[1]: lambda: ["preset=tiny_u", self._base(), reward, guard, "learner.alpha=0"],
            }
        return runs

    def policy(self, system: str) -> Path:
        """The policy that a system plays with. Raises RunFailed where its run has none."""
        if system == "base":
            return Path(self.settings.policy)
        newest = newest_policy(run_folder(self.settings, system))
        if newest is None:
            raise RunFailed(f"{system}: no complete checkpoint in {run_folder(self.settings, system)}")
        return newest[0]

    def _pairs(self) -> None:
        self._collect("pairs", votes_file(self.settings), self.settings.pairs, self.settings.seed)

    def _collect(self, log: str, out: Path, pairs: int, seed: int) -> None:
        """The votes on so many pairs, and of them those that count: both clips were heard."""
        s = self.settings
        words = {
            "out": out,
            "policy": s.pairs_policy or s.policy,
            "temperature": s.pairs_temperature,
            "codec": s.codec,
            "prompts": s.prompts,
            "pairs": pairs,
            "seconds": s.seconds,
            "seed": seed,
            "agreement": s.agreement,
            "workers": s.jobs,
            "listeners": s.listeners,
        }
        self.ledger.command(log, ["feedback.simulated_pairs", *(f"{key}={value}" for key, value in words.items())])
        write_parquet_atomic(counted(out), heard_votes(pq.read_table(out)))

    def _preferences(self, names: Sequence[str]) -> dict[str, Callable[[], object]]:
        """Stage -> its work."""
        return {f"preference model, {name}": partial(self._preference, name) for name in names}

    def _preference(self, name: str) -> None:
        s, seconds = self.settings, self.settings.seconds
        more = VARIANTS[name].format(half=seconds / 2, fifth=seconds / 5).split()
        registry = [f"registry={s.folder / 'registry'}"] if name == FULL else ["registry=none"]
        self._train(name, votes_file(s), [*registry, *more])

    def _second_preference(self) -> None:
        """What watches over the runs has learnt from other clips, by other listeners of the same population."""
        s = self.settings
        out = s.folder / "votes_second.parquet"
        self._collect("pairs of the second panel", out, s.second_pairs, s.seed + OTHER_SEED)
        self._train(SECOND, out, ["registry=none"])

    def _train(self, name: str, votes: Path, more: Sequence[str]) -> None:
        s = self.settings
        words = [
            *("rewards.train", "preference"),
            *(f"pairs={counted(votes)}", f"policy={s.policy}", f"out={model_folder(s, name)}", f"seed={s.seed}"),
            *(*ONE_PASS, "workers=0", "threads=1", *more, *s.preference_words.split()),
        ]
        self.ledger.command(f"preference {name}", words)

    def _run_all(self, runs: Mapping[str, Callable[[], list[str]]]) -> None:
        for name, words in runs.items():
            self.ledger.stage(f"run {name}", partial(self._run, name, words))

    def _run(self, name: str, words: Callable[[], Sequence[str]]) -> None:
        """Begins, or goes on from the newest complete checkpoint."""
        place, s = run_folder(self.settings, name), self.settings
        if any(place.glob("checkpoints/step_*/manifest.json")):
            self.ledger.command(f"run {name}", ["learner.main", f"run.resume={place}"])
            return
        shutil.rmtree(place, ignore_errors=True)  # stopped before its first checkpoint
        common = [f"run.dir={place}", f"run.seed={s.seed}", f"codec.checkpoint={s.codec}", "metrics.progress=lines"]
        prompts = [f"prompts.train={s.prompts}", f"prompts.eval={s.eval_prompts}"]
        self.ledger.command(f"run {name}", ["learner.main", *words(), *common, *prompts, *s.run_words.split()])

    def _raters(self) -> None:
        s = self.settings
        chosen = CompareSettings(
            prompts=s.eval_prompts,
            skip=s.skip,
            n=s.n,
            raters=s.raters,
            seconds=s.seconds,
            seed=s.seed,
            codec=s.codec,
            out=str(raters_folder(s)),
            listeners=s.listeners,
        )
        compare_policies({system: self.policy(system) for system in SYSTEMS}, chosen)

    def _base(self) -> str:
        return f"policy.checkpoint={self.settings.policy}"

    def _reward(self) -> str:
        """The version that passed the gate, or the model as it is where no gate is asked for."""
        s = self.settings
        place = f"registry:{self.folder / 'registry'}@current" if s.gate else str(model_folder(s, FULL))
        return f"rewards.preference.checkpoint={place}"


def votes_file(settings: StudySettings) -> Path:
    """All votes of the first panel; the truth behind them lies beside it."""
    return settings.folder / "votes.parquet"


def counted(votes: Path) -> Path:
    """Of a table of votes, those on pairs of which both clips were heard."""
    return votes.with_name(f"{votes.stem}_heard.parquet")


def model_folder(settings: StudySettings, variant: str) -> Path:
    return settings.folder / "preference" / variant.replace(" ", "_")


def run_folder(settings: StudySettings, run: str) -> Path:
    return settings.folder / "runs" / run.replace(", ", "_").replace(" ", "_")


def raters_folder(settings: StudySettings) -> Path:
    """ratings.parquet and heard.parquet."""
    return settings.folder / "raters"
