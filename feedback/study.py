"""The paper's study with simulated listeners, one command a seed: votes, preference model, R, U, RU, joint, raters.

    python -m feedback.study [seed=0] [key=value ...]

    seed=0                          of everything; each seed has folders of its own
    out=docs/study                  tables, figures and README.md of all seeds so far
    work=runs/study                 pairs, models and runs
    policy=assets/tiny/policy       the base that is tuned
    codec=assets/tiny/codec
    pairs_policy=                   who plays the compared clips; empty: the base, at another temperature. The paper's
                                    pairs come from another version of the model than the one that is tuned
    pairs_temperature=1.1           of its sampling
    pairs=24000                     pairs voted on; those are dropped in which a clip was hardly played, some 3 %
    second_pairs=8000               others, voted on by a second panel: what watches over the runs learns from them
    agreement=60                    how often two listeners agree, per cent: 60 or 75
    seconds=4                       length of all clips that are compared
    prompts=assets/tiny/prompts/train.txt       of the pairs
    eval_prompts=assets/tiny/prompts/eval.txt   of the raters; the runs are evaluated on others at its top
    skip=256                        prompts of that file that are left to the runs
    n=101                           prompts that raters hear (101: the paper)
    raters=3                        simulated raters of each pair of clips (3: the paper)
    ablations=true                  the preference model without text, on shorter crops, from scratch
    over=true                       two runs into over-optimisation: quality alone, preference without a KL
    gate=true                       the preference model must pass the registry's gate before it serves
    jobs=2                          preference models trained side by side, one thread each
    run_words=                      more words for every reinforcement-learning run, "learner.steps=2 ..."
    preference_words=               more words for every training of a preference model, "epochs=1 ..."
    listeners=FILE                  parameters (default: feedback/simulated_listeners.yaml)

    pairs ─▶ preference model ─┬─▶ U ────────────┐
                   │           ├─▶ joint ────────┼─▶ clips of held-out prompts ─▶ raters ─▶ tables, figures
                   └───────────┼─▶ R ─▶ RU ──────┘
                               └─▶ quality alone, preference without KL (figures 7 and 8)

A stage that is finished is not done again; stopped at any point, the same command goes on. Every stage is a command of
its own, noted with its time in work/seed_N/study.json, its output in work/seed_N/logs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.command_line import parse_settings, run_long_command
from feedback.study_settings import StudySettings, check


def run_study(settings: StudySettings) -> Path:
    """All stages of one seed, then the tables over all seeds so far -> README.md.

    Raises UserError for input that cannot be used, RunFailed where a stage ends badly.
    """
    check(settings)
    from feedback.study_results import write_results
    from feedback.study_stages import Stages
    from feedback.study_summary import write_summary

    stages = Stages(settings)
    stages.all()
    stages.ledger.stage("results", lambda: write_results(settings))
    return write_summary(Path(settings.out))


def main(argv: Sequence[str]) -> int:
    return run_long_command(argv, __doc__ or "", lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    print(f"study: {run_study(parse_settings(argv, StudySettings()))}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
