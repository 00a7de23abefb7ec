"""The loop's stages in their order."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import RunFailed
from evaluation.main import newest_policy
from feedback.loop_personal import fit_heads, publish_group, tune_group
from feedback.loop_report import write_report
from feedback.loop_reward import retrain
from feedback.loop_settings import LoopSettings
from feedback.loop_state import START, LoopState, stage_name
from feedback.loop_tuning import publish, tune, with_words
from feedback.loop_votes import collect
from rewards.preference_registry import resolve_checkpoint


class Rounds:
    """Everything from the first policy to the last."""

    def __init__(self, settings: LoopSettings) -> None:
        self.settings, self.state = settings, LoopState(settings)

    def all(self) -> Path:
        """Whatever is not finished -> the report. Raises RunFailed."""
        ledger = self.state.ledger
        if not self.settings.policy:
            ledger.stage("MusicRL-R", self._train_r)
        ledger.stage(START, self._start)
        self._measure(0)
        for number in range(1, self.settings.rounds + 1):
            self._round(number)
            report = write_report(self.state)
        return report

    def _round(self, number: int) -> None:
        """One round."""
        stages = {"collect": collect, "reward": retrain, "tune": tune, "publish": publish}
        for name, work in stages.items():
            self.state.ledger.stage(stage_name(number, name), partial(work, self.state, number))
        if self.settings.personal:
            self.state.ledger.stage(stage_name(number, "personal"), partial(fit_heads, self.state, number))
        if self.settings.group:
            for name, work in (("tune group", tune_group), ("publish group", publish_group)):
                self.state.ledger.stage(stage_name(number, name), partial(work, self.state, number))
        self._measure(number)

    def _measure(self, number: int) -> None:
        """Only simulated listeners have a utility that can be measured."""
        if self.settings.simulated:
            from feedback.loop_simulated import measure

            self.state.ledger.stage(stage_name(number, "simulated utility"), partial(measure, self.state, number))

    def _start(self) -> dict[str, Any]:
        """The base and the first policy are published; the preference model that is given serves."""
        base = self.state.published.publish(self.settings.base, facts={"round": 0, "of": "base"})
        first = self._first_policy()
        policy = self.state.published.publish(first, base.version, facts={"round": 0, "of": str(first)})
        found = {"base": base.version, "policy": policy.version, "preference": ""}
        if self.settings.preference:
            place = resolve_checkpoint(self.settings.preference, "preference")
            entry = self.state.registry.add(place)
            self.state.registry.judge(entry.version, True, "served already when the loop began", {})
            found["preference"] = entry.version
        return found

    def _first_policy(self) -> Path:
        if self.settings.policy:
            return Path(self.settings.policy)
        newest = newest_policy(self._r_folder)
        if newest is None:
            raise RunFailed(f"MusicRL-R: no complete checkpoint in {self._r_folder}")
        return newest[0]

    @property
    def _r_folder(self) -> Path:
        return self.settings.folder / "R"

    def _train_r(self) -> None:
        """MusicRL-R from the base, where no policy is given."""
        s, place = self.settings, self._r_folder
        if any(place.glob("checkpoints/step_*/manifest.json")):
            self.state.ledger.command("R", ["learner.main", f"run.resume={place}"])
            return
        shutil.rmtree(place, ignore_errors=True)
        words = [
            *("preset=tiny_r", f"policy.checkpoint={s.base}", f"codec.checkpoint={s.codec}"),
            *(f"run.dir={place}", f"run.seed={s.seed}", "metrics.progress=lines"),
            *(f"prompts.train={s.prompts}", f"prompts.eval={s.eval_prompts}"),
        ]
        self.state.ledger.command("R", ["learner.main", *with_words(words, s.run_words)])
