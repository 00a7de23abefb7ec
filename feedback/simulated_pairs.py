"""Pairs of clips of a policy, voted on by simulated listeners: the table that a preference reward model learns from.

    python -m feedback.simulated_pairs out=FILE.parquet [key=value ...]

    policy=assets/tiny/policy       the policy that plays. The paper's pairs come from another version of the model than
                                    the one that is tuned: name an earlier checkpoint, or another temperature
    other=                          another policy, which plays one of the clips, on a random side, of
    other_share=0.5                 so many of the pairs
    temperature=0.99                of its sampling; 1.1 is as far from the base at 0.99 as an earlier version may be
    codec=assets/tiny/codec
    prompts=assets/tiny/prompts/train.txt
    pairs=20000                     pairs voted on
    seconds=4                       length of the clips
    seed=0                          of clips, panel and votes
    agreement=60                    how often two listeners agree, per cent: 60 or 75
    panel_seed=                     of the panel alone, so that several tables share one; empty: seed
    workers=1                       processes that sample side by side, one thread each
    listeners=FILE                  parameters (default: feedback/simulated_listeners.yaml)

Writes out (rewards.preference_pairs.SCHEMA) and, beside it, FILE.hidden.parquet: the truth behind each vote, for
measuring only; no reward may read it. Work is kept in FILE.parts/ until all is there, so a run that was stopped goes on
where it stopped, and the same settings give the same files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import UserError
from configs.command_line import exit_status_of, parse_settings
from configs.prompts import load_prompts
from feedback.simulated_parameters import DEFAULT_FILE, load_parameters

MAX_PROMPT_CHARS = 2000
FEWEST_HEARD = 0.5  # share of each clip that must have been played for a vote to count


@dataclass
class PairSettings:
    out: str = ""
    policy: str = "assets/tiny/policy"
    other: str = ""
    other_share: float = 0.5
    temperature: float = 0.99
    codec: str = "assets/tiny/codec"
    prompts: str = "assets/tiny/prompts/train.txt"
    pairs: int = 20_000
    seconds: float = 4.0
    seed: int = 0
    agreement: int = 60
    panel_seed: str = ""
    workers: int = 1
    listeners: str = str(DEFAULT_FILE)

    @property
    def panel(self) -> int:
        """Seed of the panel."""
        return int(self.panel_seed or self.seed)


def make_pairs(settings: PairSettings) -> Path:
    """Samples, votes, writes. -> the table. Raises UserError for what cannot be used."""
    check(settings)
    from feedback.simulated_pair_parts import PairParts

    return PairParts(settings).complete()


def check(settings: PairSettings) -> None:
    """Before anything is sampled. Raises UserError."""
    if not settings.out.endswith(".parquet"):
        raise UserError(f"out: got {settings.out!r}, allowed a path that ends in .parquet")
    for name in ("policy", "codec", *(["other"] if settings.other else [])):
        if not Path(getattr(settings, name)).is_dir():
            raise UserError(f"{name}: got {getattr(settings, name)!r}, allowed an existing directory")
    if settings.other_share > 1:
        raise UserError(f"other_share: got {settings.other_share:g}, allowed at most 1")
    if settings.panel_seed and not settings.panel_seed.isdigit():
        raise UserError(f"panel_seed: got {settings.panel_seed!r}, allowed nothing or a whole number from 0")
    load_parameters(settings.listeners).noise_of(settings.agreement)
    load_prompts(settings.prompts, "", MAX_PROMPT_CHARS, "prompts")


def main(argv: Sequence[str]) -> int:
    """Exit status 0, 2 with one line for input that cannot be used, 130 when interrupted."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    return exit_status_of(lambda: _run(argv), "interrupted: the same command goes on")


def _run(argv: Sequence[str]) -> None:
    print(f"pairs: {make_pairs(parse_settings(argv, PairSettings()))}")


def stated(settings: PairSettings) -> dict[str, str]:
    """What makes two tables the same, as text: everything but where it is written and how many work at it."""
    silent = ("out", "workers", *(() if settings.other else ("other", "other_share")))
    return {key: str(value) for key, value in asdict(settings).items() if key not in silent}


def heard_votes(table: pa.Table, least: float = FEWEST_HEARD) -> pa.Table:
    """The votes that count: each clip was played for at least that share of its length."""
    needed = pc.multiply(table["seconds"], least)
    heard = pc.and_(pc.greater_equal(table["heard_a_s"], needed), pc.greater_equal(table["heard_b_s"], needed))
    return table.filter(heard)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
