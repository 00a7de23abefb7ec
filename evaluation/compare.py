"""`python -m evaluation.main compare [A B ...] ...`: which system do raters prefer?

    compare ratings=FILE [A B ...] [out=DIR]       from ratings that were given (rating_table.SCHEMA, Parquet);
                                                   A B ...: these systems only, seen from the later ones' side
    compare A B [C ...] raters=simulated ...       policies or runs, clips made now, marked by simulated raters; all
                                                   other settings as in `python -m feedback.simulated_compare --help`

Prints wins, ties and losses of each pair of systems, the win rate, wins / (wins + losses), with its interval over
prompts, Wilcoxon's signed-rank test adjusted after Holm, and each system's mean mark. With out=, writes wins.csv,
marks.csv and wins.png there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import UserError
from configs.command_line import exit_status_of
from evaluation.rating_report import lines_of, write_standings
from evaluation.rating_table import read_ratings, systems_of
from evaluation.ratings import compare_systems

KEYS = ("ratings", "raters", "out")


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0, 2 with one line for input that cannot be used."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else 2
    return exit_status_of(lambda: _run(list(argv)))


def _run(words: list[str]) -> int:
    if "raters=simulated" in words:
        # The raters live above this folder, so they are asked by command and not imported
        words.remove("raters=simulated")
        return subprocess.call([sys.executable, "-m", "feedback.simulated_compare", *words])
    systems, given = _parse(words)
    ratings = read_ratings(given["ratings"])
    standings = compare_systems(of_systems(ratings, systems), systems)
    print("\n".join(lines_of(standings)))
    if given.get("out"):
        for path in write_standings(standings, given["out"]):
            print(path)
    return 0


def _parse(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """-> (systems, settings). Raises UserError."""
    systems = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise UserError(f"{unknown[0]}: unknown key, allowed {', '.join(KEYS)} (more with raters=simulated)")
    if given.get("raters"):
        raise UserError(f"raters: got {given['raters']!r}, allowed simulated")
    if not given.get("ratings"):
        raise UserError("ratings: got nothing, allowed ratings=FILE, or raters=simulated")
    return systems, given


def of_systems(ratings: pa.Table, systems: Sequence[str]) -> pa.Table:
    """The ratings in which both systems are among `systems` (none given: all). Raises UserError for an unknown one."""
    known = systems_of(ratings)
    for name in systems:
        if name not in known:
            raise UserError(f"systems: got {name!r}, allowed {', '.join(known)}")
    if len(systems) == 1:
        raise UserError(f"systems: got {systems[0]!r} alone, allowed two or more, or none for all")
    if not systems:
        return ratings
    chosen = pa.array(systems)
    kept = ratings.filter(
        pc.and_(pc.is_in(ratings["system_a"], value_set=chosen), pc.is_in(ratings["system_b"], value_set=chosen))
    )
    if not len(kept):
        raise UserError(f"systems: no rating compares {' with '.join(systems)}")
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
