"""Which of several policies do simulated raters prefer? Clips are made, marked and counted as in the paper.

    python -m feedback.simulated_compare A B [C ...] [key=value ...]

A, B, ...: policies from the one that is expected to be worst to the best, each a policy's folder or a run's (its newest
checkpoint), or NAME:FOLDER to say how it is called.

    prompts=assets/tiny/prompts/eval.txt    held-out prompts
    skip=0                                  prompts left out at the top
    n=101                                   prompts taken (101: the paper)
    raters=3                                simulated raters of each pair of clips (3: the paper)
    seconds=4                               length of the clips
    seed=0                                  of clips and raters; every system gets the same noise
    temperature=0.99                        of the sampling
    codec=assets/tiny/codec
    threads=1                               of torch
    out=                                    folder for ratings.parquet, heard.parquet, wins.csv, marks.csv, wins.png
    listeners=FILE                          parameters (default: feedback/simulated_listeners.yaml)

Also behind `python -m evaluation.main compare A B ... raters=simulated`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import UserError
from cluster.storage import write_parquet_atomic
from configs.command_line import exit_status_of, parse_settings
from configs.prompts import load_prompts
from evaluation.main import newest_policy
from feedback.simulated_parameters import DEFAULT_FILE, PARTS, Parameters, load_parameters

if TYPE_CHECKING:
    from feedback.simulated_utility import Heard


@dataclass(frozen=True)
class CompareSettings:
    prompts: str = "assets/tiny/prompts/eval.txt"
    skip: str = "0"
    n: int = 101
    raters: int = 3
    seconds: float = 4.0
    seed: int = 0
    temperature: float = 0.99
    codec: str = "assets/tiny/codec"
    threads: int = 1
    out: str = ""
    listeners: str = str(DEFAULT_FILE)


def compare_policies(policies: Mapping[str, Path], settings: CompareSettings) -> pa.Table:
    """Clips of every policy, marks by simulated raters. policies: name -> policy folder. -> rating_table.SCHEMA.

    With `out`, the ratings and what was heard of each clip are written there.
    """
    parameters, prompts = load_parameters(settings.listeners), chosen_prompts(settings)
    import torch

    from feedback.simulated_raters import simulated_ratings

    torch.set_num_threads(settings.threads)
    heard = {name: hear_policy(folder, prompts, parameters, settings) for name, folder in policies.items()}
    ratings = simulated_ratings(heard, prompts, parameters, settings.seed, settings.raters)
    if settings.out:
        write_parquet_atomic(Path(settings.out) / "heard.parquet", heard_table(heard, prompts, parameters))
        write_parquet_atomic(Path(settings.out) / "ratings.parquet", ratings)
    return ratings


def hear_policy(folder: Path, prompts: Sequence[str], parameters: Parameters, settings: CompareSettings) -> Heard:
    """One clip a prompt, as a waveform, the same noise for every policy."""
    from codec.checkpoint import load_codec
    from evaluation.clips import clip_views
    from evaluation.evaluate import clip_seed, sample_clips
    from feedback.simulated_ear import SimulatedEar
    from feedback.simulated_utility import hear, join_heard
    from policy.checkpoint import load_policy
    from policy.port import SamplingSettings
    from policy.samplers import sampler_of

    policy, codec, ear = load_policy(folder), load_codec(settings.codec), SimulatedEar.load(parameters.ear)
    sampler, sampling = sampler_of(policy), SamplingSettings(settings.temperature, 1.0)
    work = [(i, prompt, clip_seed(settings.seed, i)) for i, prompt in enumerate(prompts)]
    parts = []
    for start in range(0, len(work), 32):
        clips = sample_clips(policy, sampler, codec, work[start : start + 32], settings.seconds, sampling)
        views = clip_views(clips)
        assert views.log_mel is not None
        parts.append(hear(ear, views.log_mel, clips.prompts))
    return join_heard(parts)


def heard_table(heard: Mapping[str, Heard], prompts: Sequence[str], parameters: Parameters) -> pa.Table:
    """One row a clip: the hidden utility, its parts and measures, for measuring only."""
    from feedback.simulated_measures import MEASURES
    from feedback.simulated_utility import group_utility, population_utility

    tables = []
    for system, clips in heard.items():
        columns: dict[str, object] = {"system": [system] * len(clips), "prompt": list(prompts)}
        columns["simulated_utility"] = population_utility(clips, parameters)
        for group in parameters.groups:
            columns[f"simulated_utility_{group.name}"] = group_utility(clips, group, parameters)
        columns |= {name: getattr(clips, name) for name in PARTS if name != "taste"}
        columns |= {name: clips.measures[:, place] for place, name in enumerate(MEASURES)}
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def chosen_prompts(settings: CompareSettings) -> list[str]:
    """`n` prompts after the first `skip`. Raises UserError where there are fewer."""
    if not settings.skip.isdigit():
        raise UserError(f"skip: got {settings.skip!r}, allowed a whole number from 0")
    every, skip = load_prompts(settings.prompts, field="prompts"), int(settings.skip)
    if len(every) < skip + settings.n:
        raise UserError(f"n: got {settings.n} after {skip}, allowed at most {len(every) - skip} in {settings.prompts}")
    return every[skip : skip + settings.n]


def named_policies(words: Sequence[str]) -> dict[str, Path]:
    """NAME:FOLDER or FOLDER, of a policy or a run -> name: policy folder. Raises UserError."""
    found: dict[str, Path] = {}
    for word in words:
        name, colon, place = word.partition(":")
        folder = Path(place if colon else word)
        if not folder.is_dir():
            raise UserError(f"systems: got {word!r}, allowed an existing folder of a policy or a run, or NAME:FOLDER")
        newest = newest_policy(folder)
        name = name if colon else folder.resolve().name
        if name in found:
            raise UserError(f"systems: got two called {name!r}, allowed different names: NAME:FOLDER")
        found[name] = newest[0] if newest else folder
        if not (found[name] / "config.json").is_file():
            raise UserError(f"systems: got {word!r} without a policy in it, allowed the folder of a policy or a run")
    if len(found) < 2:
        raise UserError(f"systems: got {len(found)}, allowed two or more policies or runs")
    return found


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 2 with one line for input that cannot be used."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else 2
    return exit_status_of(lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    settings = parse_settings([word for word in argv if "=" in word], CompareSettings())
    policies = named_policies([word for word in argv if "=" not in word])
    if not Path(settings.codec).is_dir():
        raise UserError(f"codec: got {settings.codec!r}, allowed an existing directory")
    from evaluation.rating_report import lines_of, write_standings
    from evaluation.ratings import compare_systems

    standings = compare_systems(compare_policies(policies, settings), list(policies))
    print("\n".join(lines_of(standings)))
    if settings.out:
        for path in write_standings(standings, settings.out):
            print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
