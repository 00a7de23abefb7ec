"""What `python -m feedback.loop` takes, and what makes no sense."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import UserError
from configs.prompts import load_prompts
from evaluation.main import newest_policy
from feedback.simulated_parameters import DEFAULT_FILE, load_parameters
from rewards.checkpoint import CONFIG_FILE
from rewards.preference_gate import RULES
from rewards.preference_registry import resolve_checkpoint

SIMULATED, LOG = "simulated", "log"
# of the settings: those that change nothing of what a finished stage found
FREE = ("work", "jobs", "rounds", "wait_hours", "poll_s", "log", "audio_dir")
LEARNING = ("onwards", "fresh")
ANCHORS = ("newest", "start", "base")
NO_GATE = "off"


@dataclass(frozen=True)
class LoopSettings:
    work: str = "runs/loop"
    rounds: int = 2
    seed: int = 0
    study: str = ""
    policy: str = ""
    base: str = "assets/tiny/policy"
    preference: str = ""
    votes: str = ""
    codec: str = "assets/tiny/codec"
    prompts: str = "assets/tiny/prompts/train.txt"
    eval_prompts: str = "assets/tiny/prompts/eval.txt"
    seconds: float = 4.0
    # votes
    listeners: str = SIMULATED
    votes_per_round: int = 3000
    own: float = 0.5
    judged: float = 0.3
    agreement: int = 60
    panel: str = ""
    panel_seed: str = ""
    log: str = "feedback_log/preferences.sqlite"
    audio_dir: str = ""
    wait_hours: float = 168.0
    poll_s: float = 10.0
    # reward
    learn: str = "onwards"
    replay: float = 1.0
    gate: str = "not_below"
    margin: float = 0.02
    personal: bool = True
    preference_words: str = ""
    # policy
    anchor: str = "newest"
    second_preference: str = ""
    run_words: str = ""
    group: str = ""
    # measuring
    skip: str = "256"
    n: int = 256
    jobs: int = 2

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def panel_file(self) -> str:
        """Parameters of the simulated listeners."""
        return self.panel or str(DEFAULT_FILE)

    @property
    def simulated(self) -> bool:
        """Votes come from simulated listeners."""
        return self.listeners == SIMULATED


def of_study(settings: LoopSettings) -> LoopSettings:
    """`study=` filled in: its RU, its preference model, its votes; what is named itself stays. Raises UserError."""
    if not settings.study:
        return settings
    place = Path(settings.study)
    found = newest_policy(place / "runs" / "RU")
    if found is None or not (place / "votes_heard.parquet").is_file():
        raise UserError(
            f"study: got {settings.study!r}, allowed the folder of a study's seed that has its votes and RU"
        )
    second = place / "preference" / "second"
    return replace(
        settings,
        policy=settings.policy or str(found[0]),
        preference=settings.preference or f"registry:{place / 'registry'}@current",
        votes=settings.votes or str(place / "votes_heard.parquet"),
        second_preference=settings.second_preference or (str(second) if second.is_dir() else ""),
        panel_seed=settings.panel_seed or str(json.loads((place / "study.json").read_text())["settings"]["seed"]),
    )


def check(settings: LoopSettings) -> None:
    """Before anything starts. Raises UserError."""
    for name in ("policy", "base", "codec"):
        place = getattr(settings, name)
        if not (name == "policy" and not place) and not Path(place).is_dir():
            raise UserError(f"{name}: got {place!r}, allowed an existing directory")
    for name, allowed in (
        ("listeners", (SIMULATED, LOG)),
        ("learn", LEARNING),
        ("anchor", ANCHORS),
        ("gate", (*RULES, NO_GATE)),
    ):
        if getattr(settings, name) not in allowed:
            raise UserError(f"{name}: got {getattr(settings, name)!r}, allowed {' or '.join(allowed)}")
    for name, most in (("own", 1.0), ("judged", 0.9), ("margin", 0.5)):
        if getattr(settings, name) > most:
            raise UserError(f"{name}: got {getattr(settings, name):g}, allowed at most {most:g}")
    for vote_file in vote_files(settings):
        if not vote_file.is_file():
            raise UserError(f"votes: got {str(vote_file)!r}, allowed existing Parquet files of votes")
    for name in ("preference", "second_preference"):
        _check_model(getattr(settings, name), name)
    load_prompts(settings.prompts, field="prompts")
    _check_measuring(settings)


def _check_model(place: str, name: str) -> None:
    if place and not (Path(resolve_checkpoint(place, name)) / CONFIG_FILE).is_file():
        raise UserError(f"{name}: got {place!r}, allowed the directory of a preference model, or registry:...")


def vote_files(settings: LoopSettings) -> list[Path]:
    """Earlier votes, from before the loop."""
    return [Path(path.strip()) for path in settings.votes.split(",") if path.strip()]


def _check_measuring(settings: LoopSettings) -> None:
    """What only simulated listeners need."""
    if not settings.simulated:
        return
    load_parameters(settings.panel_file).noise_of(settings.agreement)
    if not settings.skip.isdigit():
        raise UserError(f"skip: got {settings.skip!r}, allowed a whole number from 0")
    there = len(load_prompts(settings.eval_prompts, field="eval_prompts")) - int(settings.skip)
    if there < settings.n:
        raise UserError(f"n: got {settings.n}, allowed at most the {there} that {settings.eval_prompts} has after skip")
