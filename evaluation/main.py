"""`python -m evaluation.main RUN_DIR [key=value ...]`: did the run's policy get better than its base?

    prompts=PATH            prompts to sample (default: the run's prompts.eval)
    n=256                   how many of them, from the top
    seeds=1                 clips of each prompt
    base=DIR                policy to compare with (default: the run's policy.checkpoint)
    policy=DIR              policy to judge (default: the newest checkpoint of the run)
    seconds=4               length of the clips
    diversity_samples=4     clips of one prompt for diversity, below 2: none
    real=DIR                real clips (default: test_clips beside the base policy, if there); real= for none
    batch_size=32           clips sampled at once

RUN_DIR, base and policy may lie on object storage: s3://BUCKET/PREFIX.
Writes RUN_DIR/evaluation_final.parquet and RUN_DIR/evaluation_summary.json, and renews RUN_DIR/report.html.

`python -m evaluation.main compare …` compares systems by listeners' ratings (evaluation/compare.py).
`python -m evaluation.main field …` measures two folders of clips as the field does: FAD, KAD, KL, CLAP score
(evaluation/field.py); `python -m evaluation.main musiccaps …` does so by the MusicCaps protocol.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError
from cluster.storage import write_parquet_atomic, write_text_atomic
from configs.command_line import exit_status_of
from configs.load import load_stored
from configs.prompts import load_prompts
from configs.schema import Config
from evaluation.run_place import RunPlace, newest_checkpoint


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    run_dir: str
    prompts: str = ""
    n: int = 256
    seeds: int = 1
    base: str = ""
    policy: str = ""
    seconds: float = 4.0
    diversity_samples: int = 4
    real: str | None = None
    batch_size: int = 32


RANGES: dict[str, tuple[float, float]] = {
    "n": (1, 1_000_000),
    "seeds": (1, 1000),
    "seconds": (0.1, 600.0),
    "diversity_samples": (0, 100),
    "batch_size": (1, 4096),
}


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0, 2 with one line on stderr for input that cannot be used, 130 when interrupted."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] == "compare":
        from evaluation.compare import main as compare

        return compare(argv[1:])
    if argv[0] == "field":
        from evaluation.field import main as field

        return field(argv[1:])
    if argv[0] == "musiccaps":
        from evaluation.musiccaps import main as musiccaps

        return musiccaps(argv[1:])
    return exit_status_of(lambda: evaluate_run(parse(argv)), "interrupted: nothing was written")


def parse(argv: Sequence[str]) -> Options:
    """Words of the command line -> Options. Raises UserError."""
    first, *words = argv
    if "=" in first:
        raise UserError(f"RUN_DIR: got {first!r} as the first word, allowed the folder of a run")
    given: dict[str, str] = {}
    known = [field.name for field in dataclasses.fields(Options) if field.name != "run_dir"]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise UserError(f"{word}: not understood, allowed {'=..., '.join(known)}=...")
        if key in given:
            raise UserError(f"{key}: given twice")
        given[key] = value
    numbers = {key: _number(key, text) for key, text in given.items() if key in RANGES}
    return Options(run_dir=first, **{**given, **numbers})  # type: ignore[arg-type]


def _number(key: str, text: str) -> float:
    low, high = RANGES[key]
    kind = float if key == "seconds" else int
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        what = "a number" if kind is float else "a whole number"
        raise UserError(f"{key}: got {text!r}, allowed {what} from {low:g} to {high:g}")
    return value


def evaluate_run(options: Options) -> None:
    """Evaluate, print the table, write the files."""
    place = RunPlace(options.run_dir)
    config = load_stored(place.folder, "RUN_DIR")
    found = newest_policy(place.folder)
    if not options.policy and found is None:
        raise UserError(
            f"RUN_DIR: got {options.run_dir} without a complete checkpoint after step 0, allowed a run with one"
        )
    prompts = chosen_prompts(options, config)
    result_dir, step = (options.policy, 1) if options.policy or found is None else found
    # torch only from here on: wrong input is answered within a second
    from codec.checkpoint import load_codec
    from evaluation.final import evaluate_final
    from evaluation.final_table import print_table, progress_bars
    from evaluation.panel import load_panel
    from evaluation.report import write_report
    from evaluation.run_data import FINAL_ROWS, SUMMARY
    from evaluation.test_set import load_test_set
    from policy.checkpoint import load_policy

    base_dir = options.base or config.policy.checkpoint
    base, result, reference = (load_policy(d) for d in (base_dir, result_dir, config.policy.reference or base_dir))
    real_dir = real_clips_dir(options, base_dir)
    plan = plan_of(options, config, prompts, step)
    with progress_bars() as bars:
        final = evaluate_final(
            base,
            result,
            reference,
            load_codec(config.codec.checkpoint),
            load_panel(config.rewards, config.evaluation.judges, config.guard.second_preference),
            plan,
            load_test_set(real_dir) if real_dir else None,
            bars,
        )
    summary = {"base": str(base_dir), "result": str(result_dir), "learner_step": step, **final.summary}
    write_parquet_atomic(place.folder / FINAL_ROWS, final.rows)
    write_text_atomic(place.folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    report = write_report(place.folder)
    place.publish([FINAL_ROWS, SUMMARY, report.name])
    print_table(summary)
    print(f"report: {place.shown(report)}")


def plan_of(options: Options, config: Config, prompts: list[str], step: int):
    from evaluation.final import Plan
    from policy.port import SamplingSettings

    return Plan(
        prompts=tuple(prompts),
        seeds=tuple(config.evaluation.seed + i for i in range(options.seeds)),
        seconds=options.seconds,
        sampling=SamplingSettings(config.sampling.temperature, config.sampling.guidance_scale),
        batch_size=options.batch_size,
        diversity_samples=options.diversity_samples,
        learner_step=step,
    )


def chosen_prompts(options: Options, config: Config) -> list[str]:
    """The first `n` prompts of the list. Raises UserError for a list that cannot be read."""
    path, field = (options.prompts, "prompts") if options.prompts else (config.prompts.eval, "prompts.eval")
    prompts = load_prompts(path, config.prompts.column, config.prompts.max_chars, field)
    if len(prompts) < options.n:
        print(f"{path} has {len(prompts)} prompts: all of them are used")
    return prompts[: options.n]


def newest_policy(run_dir: Path) -> tuple[Path, int] | None:
    """The policy of the newest checkpoint after step 0 that has its manifest (written last), and its step."""
    manifests = (run_dir / "checkpoints").glob("step_*/manifest.json")
    step = newest_checkpoint(path.relative_to(run_dir).as_posix() for path in manifests)
    return None if step is None else (run_dir / "checkpoints" / f"step_{step}" / "policy", step)


def real_clips_dir(options: Options, base_dir: str | Path) -> Path | None:
    """`real=`, else the test clips that are shipped beside the base policy, else none."""
    if options.real is not None:
        return Path(options.real) if options.real else None
    beside = Path(base_dir).resolve().parent / "test_clips"
    return beside if (beside / "clips.parquet").is_file() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
