"""Does the guard ring before the harm is done? Runs that are over-trained on purpose, and healthy ones beside them.

    python -m feedback.simulated_guard [key=value ...]

    seeds=0,1,2,3,4         of the over-trained runs
    out=docs/study/guard    tables, figure and README.md
    work=runs/guard         votes, models and runs
    policy=assets/tiny/policy
    codec=assets/tiny/codec
    votes=                  a table of simulated votes that is there already; empty: made
    pairs=3000              votes that both preference models learn from, each from one half of the listeners: so few
                            that the reward is weak, and soon exploited
    model_steps=48          updates of each preference model
    second=                 a preference model of other listeners that is there already and guards, such as a study's
                            runs/study/seed_0/preference/second; empty: the one of the other half
    over=WORDS              what drives a run into over-optimisation, beside preset tiny_u (default: 36 steps without
                            a KL, at a constant learning rate of 3e-4, on 32 clips a step)
    every=3                 learner steps between two evaluations
    healthy=runs/study/seed_*/runs/R,runs/study/seed_*/runs/U,runs/study/seed_*/runs/RU,runs/study/seed_*/runs/joint
                            folders of runs that are there and should be silent, with commas between
    presets=                presets to run here as healthy runs as well, with commas between; those that train on
                            preference need a model that serves
    healthy_seeds=0         their seeds
    n=256                   prompts on which the hidden utility is measured,
    skip=64                 after so many of eval_prompts, which are left to the runs
    prompts=assets/tiny/prompts/train.txt
    eval_prompts=assets/tiny/prompts/eval.txt
    seconds=4               length of all clips
    hidden_seed=7           noise of the clips on which the hidden utility is measured
    agreement=60            how often two listeners agree, per cent
    threads=1               of torch, where the hidden utility is measured
    listeners=FILE          parameters (default: feedback/simulated_listeners.yaml)

The hidden utility of the simulated listeners says what a policy is worth; no reward, judge or rule reads it. It is
measured here from the checkpoints that a run has kept, after the run.

    lost 5 %        the first evaluated checkpoint whose mean utility lies below the best so far by more than 5 % of
                    what that had gained over the start, and by more than two standard errors of the difference
    peak            the best checkpoint before that
    first alarm     of the rules of evaluation/over_optimisation.py, on what the run itself has written

A stage that is finished is not done again; stopped at any point, the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError
from configs.command_line import parse_settings, run_long_command
from configs.prompts import load_prompts
from feedback.simulated_parameters import DEFAULT_FILE, load_parameters

STUDY = "runs/study/seed_*/runs"


@dataclass(frozen=True)
class GuardSettings:
    seeds: str = "0,1,2,3,4"
    out: str = "docs/study/guard"
    work: str = "runs/guard"
    policy: str = "assets/tiny/policy"
    codec: str = "assets/tiny/codec"
    votes: str = ""
    pairs: int = 3000
    model_steps: int = 48
    second: str = ""
    over: str = (
        "learner.steps=36 learner.learning_rate=3e-4 learner.lr_schedule=constant learner.alpha=0 "
        "learner.batch_size=32 learner.micro_batch_size=32 learner.cpus=1 actors.generators=1"
    )
    every: int = 3
    healthy: str = ",".join(f"{STUDY}/{name}" for name in ("R", "U", "RU", "joint"))
    presets: str = ""
    healthy_seeds: str = "0"
    n: int = 256
    skip: str = "64"
    prompts: str = "assets/tiny/prompts/train.txt"
    eval_prompts: str = "assets/tiny/prompts/eval.txt"
    seconds: float = 4.0
    hidden_seed: str = "7"
    agreement: int = 60
    threads: int = 1
    listeners: str = str(DEFAULT_FILE)

    @property
    def folder(self) -> Path:
        return Path(self.work)


def prove_guard(settings: GuardSettings) -> Path:
    """All stages -> README.md. Raises UserError for input that cannot be used, RunFailed where a stage ends badly."""
    check(settings)
    from feedback.simulated_guard_report import write_report
    from feedback.simulated_guard_runs import GuardRuns

    return write_report(GuardRuns(settings).all(), settings)


def check(settings: GuardSettings) -> None:
    """Before anything starts. Raises UserError."""
    for name in ("policy", "codec", "second"):
        place = getattr(settings, name)
        if (place or name != "second") and not Path(place).is_dir():
            raise UserError(f"{name}: got {place!r}, allowed an existing directory")
    if settings.votes and not Path(settings.votes).is_file():
        raise UserError(f"votes: got {settings.votes!r}, allowed a Parquet file of simulated votes, or empty")
    for name in ("skip", "hidden_seed"):
        if not getattr(settings, name).isdigit():
            raise UserError(f"{name}: got {getattr(settings, name)!r}, allowed a whole number from 0")
    for name in ("seeds", "healthy_seeds"):
        numbers_of(getattr(settings, name), name)
    there = len(load_prompts(settings.eval_prompts, field="eval_prompts")) - int(settings.skip)
    if there < settings.n:
        raise UserError(f"n: got {settings.n}, allowed at most the {there} that {settings.eval_prompts} has after skip")
    load_parameters(settings.listeners).noise_of(settings.agreement)


def numbers_of(text: str, field: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]. Raises UserError."""
    words = text.split(",")
    if not all(word.strip().isdigit() for word in words) or len(set(words)) != len(words):
        raise UserError(f"{field}: got {text!r}, allowed different whole numbers with commas between, such as 0,1,2")
    return [int(word) for word in words]


def main(argv: Sequence[str]) -> int:
    return run_long_command(argv, __doc__ or "", lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    print(f"guard: {prove_guard(parse_settings(argv, GuardSettings()))}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
