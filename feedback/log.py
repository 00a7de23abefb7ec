"""`python -m feedback.log COMMAND [key=value ...]`: the preference log from the command line.

    import path=FOLDER      adds what `export` wrote, or a folder of Music Arena battles
        format=parquet          parquet or music_arena (either shape)
        consent=train           Music Arena: what its listeners are taken to allow (count, train, personal)
        study=music_arena       Music Arena: the name under which its pairs stand in the log
    export path=PATH        writes a new folder, or one Parquet file (pairs, ratings)
        format=parquet          parquet: the whole log; music_arena: as battles, imported ones in their own shape;
                                music_arena_flat, music_arena_raw: all in one shape;
                                pairs: what a preference model learns from; ratings: what systems are compared by
        min_heard_s=0.0         all but parquet: leave out who heard less of a clip
        consent=train           music_arena, pairs: leave out who allows less
        study=all               pairs, ratings: of one study only; study= for free use of the app
        codec=DIR semantic=DIR  pairs: make codes for clips that came without
    stats                   how much there is
    migrate                 brings the tables up to date (opening a log does so too)
    delete listener=ID      removes a listener and all that they left
    tidy                    removes sound that no clip needs

Every command: url=PATH|sqlite:///PATH|postgresql://… (feedback_log/preferences.sqlite), audio_dir=DIR (`audio` beside
the SQLite file), report=FILE.csv (import, export: each row left out, and why).
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import RunFailed, UserError
from cluster.storage import write_atomic
from configs.command_line import exit_status_of, nearest, parse_settings
from feedback.battle import Shape
from feedback.battle_export import export_battles
from feedback.battle_import import STUDY, import_battles
from feedback.database import parse_url
from feedback.errors import Refused, Unavailable
from feedback.exchange import export_log, import_log
from feedback.preference_log import PreferenceLog
from feedback.rating_export import export_ratings
from feedback.records import Consent, ExchangeReport

BATTLES = {"music_arena": None, "music_arena_flat": Shape.FLAT, "music_arena_raw": Shape.RAW}
EVERY_STUDY = "all"


@dataclass(frozen=True)
class Log:
    """The keys of every command."""

    url: str = "feedback_log/preferences.sqlite"
    audio_dir: str = ""

    def open(self) -> PreferenceLog:
        return PreferenceLog.open(self.url, self.audio_dir or None)

    def open_existing(self) -> PreferenceLog:
        """Raises UserError where a SQLite file would have to be made."""
        url = parse_url(self.url)
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
            raise UserError(f"url: got {self.url}, where there is no log, allowed an existing one")
        return self.open()


@dataclass(frozen=True)
class Import(Log):
    path: str = ""
    format: str = "parquet"
    consent: str = Consent.TRAIN.value
    study: str = STUDY
    report: str = ""


@dataclass(frozen=True)
class Export(Log):
    path: str = ""
    format: str = "parquet"
    min_heard_s: float = 0.0
    consent: str = Consent.TRAIN.value
    study: str = EVERY_STUDY
    codec: str = ""
    semantic: str = ""
    report: str = ""


@dataclass(frozen=True)
class Delete(Log):
    listener: str = ""


def import_rows(words: Sequence[str]) -> None:
    """`import`."""
    given = parse_settings(words, Import())
    _check(given, ("parquet", "music_arena"))
    with given.open() as log:
        if given.format == "parquet":
            report = import_log(log, given.path)
        else:
            report = import_battles(log, given.path, Consent(given.consent), given.study)
    show(report, given.report)


def export_rows(words: Sequence[str]) -> None:
    """`export`."""
    given = parse_settings(words, Export())
    _check(given, ("parquet", *BATTLES, "pairs", "ratings"))
    consent, study = Consent(given.consent), None if given.study == EVERY_STUDY else given.study
    with given.open_existing() as log:
        if given.format == "parquet":
            report = export_log(log, given.path)
        elif given.format == "ratings":
            report = export_ratings(log, given.path, study, given.min_heard_s)
        elif given.format == "pairs":
            report = _export_pairs(log, given, consent, study)
        else:
            report = export_battles(log, given.path, BATTLES[given.format], given.min_heard_s, consent)
    show(report, given.report)


def show_stats(words: Sequence[str]) -> None:
    """`stats`."""
    with parse_settings(words, Log()).open_existing() as log:
        for name, number in asdict(log.counts()).items():
            print(f"{name:12}{number:10}")
        choices = Counter(str(vote.choice) for vote in log.votes())
    print("choices     " + (", ".join(f"{name} {number}" for name, number in sorted(choices.items())) or "none"))


def migrate_tables(words: Sequence[str]) -> None:
    """`migrate`."""
    with parse_settings(words, Log()).open() as log:
        print(f"{log.url}: up to date")


def delete_listener(words: Sequence[str]) -> None:
    """`delete`."""
    given = parse_settings(words, Delete())
    if not given.listener:
        raise UserError("listener: got nothing, allowed the pseudonym of a listener")
    with given.open_existing() as log:
        gone = log.delete_listener(given.listener)
    print(f"deleted: {gone.votes} votes, {gone.ratings} ratings, {gone.pairs} pairs")


def tidy_audio(words: Sequence[str]) -> None:
    """`tidy`."""
    with parse_settings(words, Log()).open_existing() as log:
        print(f"removed: {len(log.sweep_audio())} files")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "import": import_rows,
    "export": export_rows,
    "stats": show_stats,
    "migrate": migrate_tables,
    "delete": delete_listener,
    "tidy": tidy_audio,
}


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0, also when rows were left out; 2 for input that cannot be used; 1 when the log is not there."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else 2
    return exit_status_of(lambda: _run(argv[0], argv[1:]), "interrupted: what was taken so far stays in the log")


def show(report: ExchangeReport, csv_path: str) -> None:
    """What was taken, and how much was left out for which reason; all of it to a CSV file if one is named."""
    for table, number in report.tables.items():
        print(f"{number:8} {table}")
    if report.present:
        print(f"{report.present:8} were there already")
    for kind, number in Counter(reason.partition(":")[0] for _, reason in report.left_out).most_common():
        print(f"{number:8} left out: {kind}")
    if csv_path:
        write_atomic(Path(csv_path), lambda path: _write_csv(path, report))


def _run(command: str, words: Sequence[str]) -> None:
    if command not in COMMANDS:
        raise UserError(f"{command}: unknown command{nearest(command, COMMANDS)}; allowed {', '.join(COMMANDS)}")
    try:
        COMMANDS[command](words)
    except Refused as refusal:
        raise UserError(str(refusal)) from None
    except Unavailable as problem:
        raise RunFailed(str(problem)) from None


def _check(given: Import | Export, formats: Sequence[str]) -> None:
    if not given.path:
        raise UserError("path: got nothing, allowed a folder or file")
    if given.format not in formats:
        raise UserError(f"format: got {given.format!r}, allowed {', '.join(formats)}")
    if given.consent not in list(Consent):
        raise UserError(f"consent: got {given.consent!r}, allowed {', '.join(Consent)}")


def _export_pairs(log: PreferenceLog, given: Export, consent: Consent, study: str | None) -> ExchangeReport:
    # torch only where it is needed
    from feedback.training_table import codec_encoder, export_pairs

    encode = None
    if given.codec:
        from codec.checkpoint import load_codec
        from codec.semantic import load_semantic

        semantic = load_semantic(given.semantic).encode if given.semantic else None
        encode = codec_encoder(load_codec(given.codec), semantic)
    return export_pairs(log, given.path, given.min_heard_s, consent, study, encode=encode)


def _write_csv(path: Path, report: ExchangeReport) -> None:
    # file names may hold what is no text
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "reason"])
        writer.writerows(report.left_out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
