"""The continuing loop: votes on what the newest policy plays, a better reward, fine-tuning, a new policy; again.

    python -m feedback.loop [key=value ...]

    work=runs/loop                  votes, runs, registries and README.md of the loop
    rounds=2                        in all; a finished loop goes on with a larger number
    seed=0                          of pairs, trainings and runs
    study=                          a study's seed (runs/study/seed_0): begins with its RU, preference models, votes
    policy=                         policy to begin with, such as RU's; empty: MusicRL-R is trained from the base first
    base=assets/tiny/policy         what the first policy is compared with; its weights begin preference models
    preference=                     preference model that serves at first: a directory or registry:...; empty: none yet
    votes=                          its votes: Parquet files with commas between
    codec=assets/tiny/codec
    prompts=assets/tiny/prompts/train.txt       of simulated pairs and of the runs
    eval_prompts=assets/tiny/prompts/eval.txt   the runs are evaluated on those at its top
    seconds=4                       length of the clips

    listeners=simulated             or log: people, through the listening app
    votes_per_round=3000            that a round waits for
    own=0.5                         simulated: share of pairs that the newest policy plays both clips of
    judged=0.3                      simulated: share of pairs on prompts that are held out from preference models
    agreement=60                    simulated: how often two listeners agree, per cent: 60 or 75
    panel=FILE                      simulated: parameters (default: feedback/simulated_listeners.yaml)
    panel_seed=                     simulated: of the panel, for the one that gave votes=; empty: seed
    log=feedback_log/preferences.sqlite         the app's log: a path, sqlite:///..., postgresql://...
    audio_dir=                      its clips (default: `audio` beside the SQLite file)
    wait_hours=168                  for a round's votes; then the loop ends, and goes on waiting when started again
    poll_s=10                       between two looks at the log

    learn=onwards                   from the serving model on new and replayed votes; fresh: anew on all votes
    replay=1                        earlier votes for each new one
    gate=not_below                  the registry's rule for a new preference model: not_below or above; off: none
    margin=0.02                     of not_below
    personal=true                   fit heads for consenting groups and listeners, and note which foretell better
    group=                          also tune a policy for this group, where its own head may serve
    preference_words=               more words for every training of a preference model, "epochs=1 ..."

    anchor=newest                   of the KL: newest, start (the loop's first policy) or base
    second_preference=              a preference model of other listeners, which guards the runs
    run_words=                      more words for every reinforcement-learning run, "learner.steps=40 ..."

    skip=256 n=256                  simulated: prompts of eval_prompts on which the hidden utility is measured
    jobs=2                          processes and threads

    collect ─▶ retrain the reward ─▶ gate ─▶ fine-tune, watched ─▶ publish ─▶ the app plays it ─▶ collect ...

Every stage is noted in work/loop.json when it is finished; stopped at any point, the same command goes on, and ends
where it would have ended. The listening app follows `policies=loop=registry:work/published`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.command_line import parse_settings, run_long_command
from feedback.loop_settings import LoopSettings, check, of_study


def run_loop(settings: LoopSettings) -> Path:
    """All rounds that are not finished yet -> README.md.

    Raises UserError for input that cannot be used, RunFailed where a stage ends badly or votes do not come in time.
    """
    settings = of_study(settings)
    check(settings)
    from feedback.loop_rounds import Rounds

    return Rounds(settings).all()


def main(argv: Sequence[str]) -> int:
    return run_long_command(argv, __doc__ or "", lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    print(f"loop: {run_loop(parse_settings(argv, LoopSettings()))}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
