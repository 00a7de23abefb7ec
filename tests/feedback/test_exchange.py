"""A log out as Parquet and in again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from feedback.appender import Appender
from feedback.exchange import export_log, import_log
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Consent, ListenerKind, Played
from tests.feedback.log_parts import MOMENT, clip_of, fill, flac_of, listener_of, pair_of, rating_of, vote_of


def everything(log: PreferenceLog) -> dict[str, list]:
    """All that a log holds, moments of recording included."""
    with log.snapshot() as reader:
        from feedback.schema import ratings, votes

        return {
            "listeners": list(reader.listeners()),
            "consents": list(reader.consents()),
            "clips": list(reader.clips()),
            "pairs": list(reader.pairs()),
            "votes": list(reader.votes()),
            "ratings": list(reader.ratings()),
            "deletions": list(reader.deletions()),
            "recorded": [*reader.receipts(votes.c.vote_id), *reader.receipts(ratings.c.rating_id)],
        }


def rich_log(log: PreferenceLog) -> None:
    """Something of everything."""
    fill(log, pairs=2, clips=4, listeners=("ann", "bob", "leaver"))
    log.add_listener(listener_of("sim", kind=ListenerKind.SIMULATED, group="lively"))
    log.set_consent("ann", Consent.PERSONAL)
    log.set_consent("ann", Consent.COUNT)
    original = log.audio.put(b"the mp3 that it came from", ".mp3")
    log.add_clip(clip_of(4, codes=None, original=original, policy="élan", seed=-1), flac_of(4))
    log.add_clip(clip_of(5, clip_id="e" * 64, audio=clip_of(5).clip_id, prompt="«♪» 🎵\n"), flac_of(5))
    own = pair_of(
        5, prompt="", clip_a=clip_of(4).clip_id, clip_b="e" * 64, study="blind", asked_by="ann", origin='{"é":1}'
    )
    log.add_pair(replace(own, origin=json.dumps({"é": [1.0, None]})))
    log.record_votes(
        [vote_of(1, "bob", Choice.TIE), vote_of(0), vote_of(5, "sim", Choice.NEITHER), vote_of(0, "leaver")]
    )
    log.record_ratings([rating_of(5), rating_of(5, "bob", played_a=Played(), score_a=1, score_b=5)])
    log.delete_listener("leaver")


def test_a_log_goes_out_and_comes_in_equal(log: PreferenceLog, tmp_path: Path) -> None:
    rich_log(log)
    out = export_log(log, tmp_path / "out")
    assert out.left_out == [] and out.tables["votes"] == 3 and out.tables["clips"] == 6
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        report = import_log(other, tmp_path / "out")
        assert report.left_out == [] and report.present == 0
        assert report.tables == {name: rows for name, rows in out.tables.items() if name != "consents"}
        assert everything(other) == everything(log)
        assert {name: other.audio.read(name) for name in other.audio.names()} == {
            name: log.audio.read(name) for name in log.audio.names()
        }
        assert other.record_vote(vote_of(0)) == log.record_vote(vote_of(0))
        # once more: nothing is new, nothing is in the way
        again = import_log(other, tmp_path / "out")
        assert (again.taken, again.left_out, again.present) == (0, [], report.taken)
        assert everything(other) == everything(log)
        export_log(other, tmp_path / "again")
    for file in (tmp_path / "out").glob("*.parquet"):
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "again" / file.name)), file.name


def test_each_row_left_out_is_named_with_its_reason(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    fill(sqlite_log, pairs=3, clips=6, listeners=("ann", "bob", "cat"))
    sqlite_log.record_votes(vote_of(number, name) for number in range(3) for name in ("ann", "bob"))
    export_log(sqlite_log, tmp_path / "out")
    (tmp_path / "out/audio" / clip_of(0).clip_id[:2] / f"{clip_of(0).clip_id}.flac").unlink()
    votes = pq.read_table(tmp_path / "out/votes.parquet").to_pylist()
    votes[2]["choice"] = "both"  # ann, pair 1
    votes[3]["played_a"] = [[0.0, 99.0]]  # bob, pair 1
    votes[4]["listener_id"] = "stranger"  # ann, pair 2
    pq.write_table(
        pa.Table.from_pylist(votes, pq.read_schema(tmp_path / "out/votes.parquet")), tmp_path / "out/votes.parquet"
    )
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        other.add_listener(listener_of("cat", kind=ListenerKind.SIMULATED))
        report = import_log(other, tmp_path / "out")
        assert [vote.vote_id for vote in other.votes()] == ["vote-bob-2"]
    reasons = dict(report.left_out)
    assert list(reasons) == [
        "listener cat",
        f"clip {clip_of(0).clip_id}",
        "pair pair-0",
        "vote vote-ann-1",
        "vote vote-ann-0",
        "vote vote-bob-0",
        "vote vote-bob-1",
        "vote vote-ann-2",
    ]
    assert "missing audio" in reasons[f"clip {clip_of(0).clip_id}"] and "conflict" in reasons["listener cat"]
    assert reasons["pair pair-0"] == "unknown: clip_a: no such clip"
    assert reasons["vote vote-ann-1"] == "unknown value: 'both' is not a valid Choice"
    assert reasons["vote vote-bob-1"].startswith("invalid: played_a[0]")
    assert reasons["vote vote-ann-2"] == "unknown: listener_id: no such listener"


def test_what_lost_its_sound_stays_behind(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    fill(sqlite_log, pairs=2, clips=4)
    sqlite_log.record_votes([vote_of(0), vote_of(1)])
    sqlite_log.record_rating(rating_of(0))
    path = sqlite_log.audio_path(clip_of(1).clip_id)
    path.write_bytes(path.read_bytes()[:-5])
    report = export_log(sqlite_log, tmp_path / "out")
    assert [row for row, _ in report.left_out] == [
        f"clip {clip_of(1).clip_id}",
        "pair pair-0",
        "vote vote-ann-0",
        "rating rating-ann-0",
    ]
    assert all(reason.startswith("missing audio: ") for _, reason in report.left_out)
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        assert import_log(other, tmp_path / "out").left_out == []
        assert list(other.votes()) == [vote_of(1)]


def test_deletions_travel_and_old_folders_bring_nobody_back(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    fill(sqlite_log, listeners=("ann", "bob"))
    sqlite_log.record_votes([vote_of(0), vote_of(0, "bob")])
    export_log(sqlite_log, tmp_path / "before")
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        import_log(other, tmp_path / "before")
        sqlite_log.delete_listener("ann")
        back = import_log(sqlite_log, tmp_path / "before")
        assert sorted(reason.partition(":")[0] for _, reason in back.left_out) == ["deleted", "deleted"]
        assert list(sqlite_log.votes()) == [vote_of(0, "bob")]
        export_log(sqlite_log, tmp_path / "after")
        import_log(other, tmp_path / "after")
        assert list(other.votes()) == [vote_of(0, "bob")]
        assert [gone.listener_hash for gone in other.deletions()] == [
            gone.listener_hash for gone in sqlite_log.deletions()
        ]


def test_an_older_consent_that_comes_later_does_not_count(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    fill(sqlite_log)
    export_log(sqlite_log, tmp_path / "out")
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        long_ago = MOMENT - timedelta(days=900)
        for consent, later in ((Consent.TRAIN, 0), (Consent.COUNT, 4000)):
            at = long_ago + timedelta(days=later)
            work = lambda connection, given, at=at: Appender(connection, at).note_consent("ann", given)  # noqa: E731
            if not later:
                other.write_many(
                    lambda connection, who: Appender(connection, long_ago).add_listener(who), [listener_of()]
                )
            assert other.write_many(work, [consent]) == [bool(later)]
        import_log(other, tmp_path / "out")
        assert other.listener("ann").consent is Consent.COUNT


def test_other_folders_are_refused_in_one_line(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    fill(sqlite_log)
    export_log(sqlite_log, tmp_path / "out")
    with pytest.raises(UserError, match="there already"):
        export_log(sqlite_log, tmp_path / "out")
    with pytest.raises(UserError, match=r"without a manifest\.json"):
        import_log(sqlite_log, tmp_path / "nothing")
    whole = (tmp_path / "out/votes.parquet").read_bytes()
    for broken in (whole[:50], b"PAR1", b""):
        (tmp_path / "out/votes.parquet").write_bytes(broken)
        with pytest.raises(UserError, match=r"votes\.parquet .*allowed a whole Parquet file"):
            import_log(sqlite_log, tmp_path / "out")
    pq.write_table(pa.table({"vote_id": [1]}), tmp_path / "out/votes.parquet")
    with pytest.raises(UserError, match="vote_id: int64, allowed string"):
        import_log(sqlite_log, tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text('{"format": "musicrl-preference-log", "version": 2}')
    with pytest.raises(UserError, match="of version 1"):
        import_log(sqlite_log, tmp_path / "out")
