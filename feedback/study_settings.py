"""What `python -m feedback.study` takes, and what makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError
from configs.prompts import load_prompts
from feedback.simulated_parameters import DEFAULT_FILE, load_parameters


@dataclass(frozen=True)
class StudySettings:
    seed: int = 0
    out: str = "docs/study"
    work: str = "runs/study"
    policy: str = "assets/tiny/policy"
    codec: str = "assets/tiny/codec"
    pairs_policy: str = ""
    pairs_temperature: float = 1.1
    pairs: int = 24_000
    second_pairs: int = 8_000
    agreement: int = 60
    seconds: float = 4.0
    prompts: str = "assets/tiny/prompts/train.txt"
    eval_prompts: str = "assets/tiny/prompts/eval.txt"
    skip: str = "256"
    n: int = 101
    raters: int = 3
    ablations: bool = True
    over: bool = True
    gate: bool = True
    jobs: int = 2
    run_words: str = ""
    preference_words: str = ""
    listeners: str = str(DEFAULT_FILE)

    @property
    def folder(self) -> Path:
        """Of this seed's work."""
        return Path(self.work) / f"seed_{self.seed}"

    @property
    def results(self) -> Path:
        """Of this seed's tables and figures."""
        return Path(self.out) / f"seed_{self.seed}"


def check(settings: StudySettings) -> None:
    """Before anything starts. Raises UserError."""
    for name in ("policy", "codec", "pairs_policy"):
        place = getattr(settings, name)
        if place and not Path(place).is_dir():
            raise UserError(f"{name}: got {place!r}, allowed an existing directory")
    if not settings.pairs_policy and settings.pairs_temperature == 0.99:
        raise UserError(
            "pairs_temperature: got 0.99, which is the tuned policy itself; allowed another, or pairs_policy=DIR"
        )
    load_parameters(settings.listeners).noise_of(settings.agreement)
    load_prompts(settings.prompts, field="prompts")
    if not settings.skip.isdigit():
        raise UserError(f"skip: got {settings.skip!r}, allowed a whole number from 0")
    there = len(load_prompts(settings.eval_prompts, field="eval_prompts")) - int(settings.skip)
    if there < settings.n:
        raise UserError(f"n: got {settings.n}, allowed at most the {there} that {settings.eval_prompts} has after skip")
