"""`python -m feedback.log`."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feedback.log import COMMANDS, main
from feedback.preference_log import PreferenceLog
from tests.feedback.arena_parts import files_of, write_flat, write_json
from tests.feedback.log_parts import fill, rating_of, vote_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log with two votes and a rating."""
    path = tmp_path / "log.sqlite"
    with PreferenceLog.open(str(path)) as log:
        fill(log, clips=4, listeners=("ann", "bob"))
        log.record_votes([vote_of(0), vote_of(1, "bob")])
        log.record_rating(rating_of(0))
    return f"url={path}"


def test_out_and_in_and_out_again(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = f"url={tmp_path}/other/log.sqlite"
    assert main(["export", url, f"path={tmp_path}/one"]) == 0
    assert main(["import", other, f"path={tmp_path}/one"]) == 0
    assert main(["export", other, f"path={tmp_path}/two"]) == 0
    assert files_of(tmp_path / "one").keys() == files_of(tmp_path / "two").keys()
    for name in ("votes", "ratings", "clips"):
        assert pq.read_table(tmp_path / f"one/{name}.parquet").equals(pq.read_table(tmp_path / f"two/{name}.parquet"))
    assert main(["stats", other]) == 0
    assert "votes                2\n" in capsys.readouterr().out


def test_battles_with_a_report(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_flat(tmp_path / "arena", 0, "mp3")
    write_json(tmp_path / "arena/=odd.json", [])
    report = tmp_path / "report.csv"
    words = [url, f"path={tmp_path}/arena", "format=music_arena", "consent=count", f"report={report}"]
    assert main(["import", *words]) == 0
    assert capsys.readouterr().out == "       1 battles\n       1 left out: wrong type\n"
    with open(report, newline="") as file:
        reason = "wrong type: the file holds a list, allowed an object"
        assert list(csv.reader(file)) == [["row", "reason"], ["=odd.json", reason]]
    assert main(["import", *words]) == 0
    assert "       1 were there already\n" in capsys.readouterr().out
    assert main(["export", url, f"path={tmp_path}/raw", "format=music_arena_raw", "consent=count"]) == 0
    assert len(list((tmp_path / "raw/logs").glob("*.json"))) == 3


def test_tables_for_learning_and_comparing(url: str, tmp_path: Path) -> None:
    assert main(["export", url, f"path={tmp_path}/pairs.parquet", "format=pairs", "min_heard_s=0.2"]) == 0
    assert pq.read_table(tmp_path / "pairs.parquet")["vote_id"].to_pylist() == ["vote-ann-0", "vote-bob-1"]
    assert main(["export", url, f"path={tmp_path}/ratings.parquet", "format=ratings", "study="]) == 0
    assert len(pq.read_table(tmp_path / "ratings.parquet")) == 1


def test_deleting_and_tidying(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delete", url, "listener=ann"]) == 0
    assert capsys.readouterr().out == "deleted: 1 votes, 1 ratings, 0 pairs\n"
    assert main(["delete", url, "listener=stranger"]) == 2
    assert main(["tidy", url]) == 0 and main(["migrate", url]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["exprot"], "exprot: unknown command, did you mean export?; allowed import, export, stats"),
        (["export"], "path: got nothing"),
        (["import", "path=x", "formt=parquet"], "formt: unknown key, did you mean format?"),
        (["import", "path=x", "format=csv"], "format: got 'csv', allowed parquet, music_arena"),
        (["import", "path=x", "format=pairs"], "format: got 'pairs', allowed parquet, music_arena"),
        (["import", "path=x", "consent=all"], "consent: got 'all', allowed count, train, personal"),
        (["import", "path=/nonexistent"], "path: got /nonexistent without a manifest.json"),
        (["export", "path=x", "min_heard_s=two"], "min_heard_s: got 'two', allowed a number"),
        (["delete"], "listener: got nothing"),
        (["stats", "url=none.sqlite"], "url: got none.sqlite, where there is no log"),
        (["stats", "url=mysql://x/y"], "url: got the kind 'mysql'"),
    ],
)
def test_wrong_words_end_in_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}") and told.count("\n") == 1
    assert not (tmp_path / "none.sqlite").exists()


def test_help_names_every_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "feedback.log", "--help"], capture_output=True, text=True, check=True)
    assert all(f"\n    {name}" in shown.stdout for name in COMMANDS)
