"""Where the loop stands: what its finished stages found. Every stage begins from here, so that none depends on files
that a killed attempt of its own may have left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedback.ledger import Ledger
from feedback.loop_settings import FREE, LoopSettings
from feedback.published import PublishedPolicies
from rewards.preference_registry import Registry

START = "start"


class LoopState:
    """The ledger, the two registries, and the folder of each round."""

    def __init__(self, settings: LoopSettings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.folder, settings, "loop", FREE)
        self.published = PublishedPolicies(settings.folder / "published")
        self.registry = Registry(settings.folder / "registry")

    def folder(self, number: int) -> Path:
        """Of a round's files."""
        return self.settings.folder / f"round_{number}"

    def found(self, number: int, stage: str) -> dict[str, Any]:
        """What a finished stage of a round noted."""
        facts = self.ledger.found(stage_name(number, stage))
        assert facts is not None, f"{stage_name(number, stage)} is not finished"
        return facts

    def start(self) -> dict[str, Any]:
        """What the loop began with: versions of base, policy and preference model."""
        facts = self.ledger.found(START)
        assert facts is not None, "the start is not finished"
        return facts

    def newest(self, number: int) -> str:
        """The version that listeners hear in a round: what the last one published."""
        return str(self.found(number - 1, "publish")["version"] if number > 1 else self.start()["policy"])

    def before(self, number: int) -> str:
        """The version that it is compared with: the one that was tuned into it, and in the first round the base."""
        return str(self.found(number - 1, "publish")["before"] if number > 1 else self.start()["base"])

    def tuned_from(self, number: int) -> str:
        """The version that a round tunes: the newest, or the one before where listeners liked that one better."""
        return str(self.found(number, "collect")["tuned_from"])

    def serving(self, number: int) -> str:
        """The preference model that serves after a round's gate; "" where none does yet."""
        return str(self.found(number, "reward")["serving"] if number else self.start()["preference"])

    def rounds_done(self) -> int:
        """Rounds of which all stages are finished."""
        number = 0
        while self.ledger.found(stage_name(number + 1, "publish")) is not None:
            number += 1
        return number


def stage_name(number: int, stage: str) -> str:
    return f"round {number}: {stage}"
