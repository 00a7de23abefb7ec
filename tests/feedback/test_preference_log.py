"""What the preference log promises on either database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from feedback.errors import Reason, Refused, Unavailable
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Consent, Counts, ListenerKind, Played, Receipt
from tests.feedback.log_parts import MOMENT, clip_of, fill, flac_of, listener_of, pair_of, rating_of, vote_of


def refused(reason: Reason, work, *arguments: object) -> Refused:
    with pytest.raises(Refused) as caught:
        work(*arguments)
    assert caught.value.reason is reason
    return caught.value


def test_what_goes_in_comes_out_equal_and_in_order(log: PreferenceLog) -> None:
    fill(log, pairs=3, clips=4, listeners=("ann", "bob"))
    pairs = [pair_of(number, 4) for number in range(3)]
    votes = [vote_of(2), vote_of(0, "bob", Choice.NEITHER), vote_of(1, choice=Choice.TIE)]
    ratings = [rating_of(1), rating_of(0)]
    receipts = [log.record_vote(vote) for vote in votes] + [log.record_rating(rating) for rating in ratings]
    assert list(log.votes()) == votes and list(log.ratings()) == ratings
    assert list(log.pairs()) == pairs and log.pair("pair-1") == pairs[1]
    assert list(log.clips()) == [clip_of(number) for number in range(4)]
    assert log.clip(clip_of(3).clip_id) == clip_of(3)
    assert list(log.listeners()) == [listener_of("ann"), listener_of("bob")]
    assert [receipt.record_id for receipt in receipts] == [vote.vote_id for vote in votes] + [
        rating.rating_id for rating in ratings
    ]
    assert log.counts() == Counts(listeners=2, clips=4, pairs=3, votes=3, ratings=2, deletions=0)
    assert log.audio_path(clip_of(1).clip_id).read_bytes() == flac_of(1)


def test_all_of_it_is_there_after_opening_again(log: PreferenceLog, log_url: str, tmp_path: Path) -> None:
    fill(log)
    receipt = log.record_vote(vote_of(0))
    log.close()
    with PreferenceLog.open(log_url, tmp_path / "audio") as again:
        assert list(again.votes()) == [vote_of(0)]
        assert again.record_vote(vote_of(0)) == receipt


def test_a_vote_sent_again_gets_the_same_receipt_and_counts_once(log: PreferenceLog) -> None:
    fill(log)
    first = log.record_vote(vote_of(0))
    later = replace(vote_of(0), voted_at=MOMENT + timedelta(hours=1))
    assert log.record_vote(vote_of(0)) == log.record_vote(later) == first
    assert list(log.votes()) == [vote_of(0)]
    assert abs(first.recorded_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "change",
    [
        {"choice": Choice.B},
        {"pair_id": "pair-1"},
        {"listener_id": "bob"},
        {"played_a": Played(((0.0, 0.25),))},
        {"played_b": Played()},
    ],
)
def test_a_vote_id_with_another_content_is_refused(log: PreferenceLog, change: dict) -> None:
    fill(log, listeners=("ann", "bob"))
    log.record_vote(vote_of(0))
    assert "known with another content" in str(refused(Reason.CONFLICT, log.record_vote, replace(vote_of(0), **change)))
    assert list(log.votes()) == [vote_of(0)]


def test_one_answer_per_listener_and_pair(log: PreferenceLog) -> None:
    fill(log, listeners=("ann", "bob"))
    log.record_vote(vote_of(0))
    log.record_rating(rating_of(0))
    second = refused(Reason.CONFLICT, log.record_vote, replace(vote_of(0), vote_id="another"))
    assert str(second) == "pair_id: this listener has answered this pair"
    refused(Reason.CONFLICT, log.record_rating, replace(rating_of(0), rating_id="another"))
    log.record_vote(vote_of(0, "bob"))
    assert log.counts().votes == 2 and log.counts().ratings == 1


def test_unknown_and_impossible_votes_leave_nothing(log: PreferenceLog) -> None:
    fill(log)
    far = Played(((0.0, 5.0),))
    wrong = [
        (Reason.UNKNOWN, vote_of(0, pair_id="nobody's")),
        (Reason.UNKNOWN, vote_of(0, "stranger")),
        (Reason.INVALID, vote_of(0, played_a=far)),
        (Reason.INVALID, vote_of(0, played_b=far)),
        (Reason.INVALID, vote_of(0, vote_id="")),
        (Reason.INVALID, vote_of(0, vote_id="a b")),
        (Reason.INVALID, vote_of(0, vote_id="x" * 201)),
        (Reason.INVALID, vote_of(0, choice="c")),
        (Reason.INVALID, vote_of(0, voted_at=datetime(2026, 1, 1))),
        (Reason.INVALID, vote_of(0, voted_at=datetime(1969, 1, 1, tzinfo=UTC))),
    ]
    for reason, vote in wrong:
        refused(reason, log.record_vote, vote)
    for score in (0, 6, 2.5, True):
        refused(Reason.INVALID, log.record_rating, rating_of(0, score_a=score))
    assert list(log.votes()) == [] and list(log.ratings()) == []
    outcomes = log.record_votes([vote_of(0), wrong[0][1], vote_of(1)])
    assert [type(outcome) for outcome in outcomes] == [Receipt, Refused, Receipt]
    assert log.counts().votes == 2


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "nul \x00"},
        {"prompt": "half \ud800"},
        {"prompt": "x" * 10_001},
        {"seed": 2**63},
        {"seconds": 0.4},
        {"sample_rate_hz": 8000},
        {"codes": np.zeros((5, 3), np.int32)},
        {"clip_id": "../up"},
        {"original": "../up.wav"},
    ],
)
def test_impossible_clips_are_refused(log: PreferenceLog, change: dict) -> None:
    refused(Reason.INVALID, log.add_clip, clip_of(0, **change), flac_of(0))
    assert list(log.clips()) == []


def test_a_clip_needs_its_own_whole_sound(log: PreferenceLog) -> None:
    refused(Reason.INVALID, log.add_clip, clip_of(0), flac_of(1))
    cut = flac_of(0)[:-100]
    from feedback.flac import sha256

    refused(Reason.INVALID, log.add_clip, clip_of(0, clip_id=sha256(cut)), cut)
    assert list(log.audio.names()) == []


def test_equal_sound_under_other_facts(log: PreferenceLog) -> None:
    log.add_clip(clip_of(0), flac_of(0))
    log.add_clip(clip_of(0), flac_of(0))
    refused(Reason.CONFLICT, log.add_clip, clip_of(0, policy="another"), flac_of(0))
    refused(Reason.CONFLICT, log.add_clip, clip_of(0, codes=clip_of(1).codes), flac_of(0))
    other = clip_of(0, policy="another", clip_id="f" * 64, audio=clip_of(0).clip_id, codes=None)
    log.add_clip(other, flac_of(0))
    assert list(log.clips()) == [clip_of(0), other]
    assert log.audio_path("f" * 64).read_bytes() == flac_of(0) and len(list(log.audio.names())) == 1


def test_pairs_need_their_clips_and_keep_their_content(log: PreferenceLog) -> None:
    fill(log, pairs=1)
    log.add_pair(pair_of(0))
    refused(Reason.CONFLICT, log.add_pair, pair_of(0, study="other"))
    refused(Reason.CONFLICT, log.add_pair, pair_of(0, asked_by="ann"))
    refused(Reason.UNKNOWN, log.add_pair, pair_of(1, clip_b="0" * 64))
    refused(Reason.UNKNOWN, log.add_pair, pair_of(1, asked_by="stranger"))
    assert list(log.pairs()) == [pair_of(0)]


def test_the_newest_consent_counts(log: PreferenceLog) -> None:
    fill(log)
    for consent in (Consent.COUNT, Consent.PERSONAL, Consent.PERSONAL):
        log.set_consent("ann", consent)
        assert log.listener("ann").consent is consent
    log.add_listener(listener_of("ann", Consent.TRAIN))  # a page that is loaded again
    assert log.listener("ann").consent is Consent.PERSONAL
    refused(Reason.CONFLICT, log.add_listener, listener_of("ann", kind=ListenerKind.SIMULATED))
    refused(Reason.UNKNOWN, log.set_consent, "stranger", Consent.TRAIN)
    refused(Reason.INVALID, log.set_consent, "ann", "everything")


def test_reading_what_was_heard_long_enough(log: PreferenceLog) -> None:
    fill(log, pairs=2, listeners=("ann", "bob"))
    log.add_pair(pair_of(7, study="first"))
    log.record_votes([vote_of(0), vote_of(7), vote_of(0, "bob"), vote_of(1, played_b=Played(((0.0, 0.1),)))])
    assert [vote.vote_id for vote in log.votes(min_heard_s=0.2)] == ["vote-ann-0", "vote-ann-7", "vote-bob-0"]
    assert [vote.vote_id for vote in log.votes(study="first")] == ["vote-ann-7"]
    assert [vote.vote_id for vote in log.votes(study="", listener_id="ann")] == ["vote-ann-0", "vote-ann-1"]
    assert [pair.pair_id for pair in log.pairs(answered=False)] == []
    log.add_pair(pair_of(8, study="first"))
    assert [pair.pair_id for pair in log.pairs(study="first", answered=False)] == ["pair-8"]
    log.record_rating(rating_of(8, "bob"))
    assert log.rating_counts("first") == {"pair-7": 0, "pair-8": 1}
    assert [pair.pair_id for pair in log.pairs(study="first", answered=True)] == ["pair-7", "pair-8"]
    assert log.vote_of("bob", "pair-0") == vote_of(0, "bob") and log.vote_of("bob", "pair-1") is None
    assert log.rating_of("bob", "pair-8") == rating_of(8, "bob")


def test_a_snapshot_is_of_one_moment(log: PreferenceLog) -> None:
    fill(log)
    log.record_vote(vote_of(0))
    with log.snapshot() as reader:
        before = reader.counts()
        log.record_vote(vote_of(1))
        assert reader.counts() == before and len(list(reader.votes())) == 1
    assert log.counts().votes == 2


def test_rows_are_never_changed(log: PreferenceLog) -> None:
    fill(log)
    log.record_vote(vote_of(0))
    log.record_rating(rating_of(0))
    changes = ["votes SET choice = 'b'", "ratings SET score_a = 1", "pairs SET study = 'x'", "clips SET seed = 0"]
    for change in [*changes, "listeners SET listener_group = 'x'", "consents SET consent = 'count'"]:
        with pytest.raises(DBAPIError, match="never changed"), log._database.writing.begin() as connection:
            connection.execute(text(f"UPDATE {change}"))
    assert list(log.votes()) == [vote_of(0)]


def test_deleting_a_listener_leaves_the_fact_only(log: PreferenceLog, tmp_path: Path) -> None:
    fill(log, pairs=1, clips=2, listeners=("ann-secret-pseudonym", "bob"))
    ann = "ann-secret-pseudonym"
    for number in (2, 3, 4, 5):
        log.add_clip(clip_of(number, prompt="a prompt of my own"), flac_of(number))
    own = [pair_of(number, 6, prompt="a prompt of my own", asked_by=ann) for number in (1, 2)]
    log.add_pairs(own)
    log.record_votes([vote_of(0, ann), vote_of(1, ann), vote_of(0, "bob"), vote_of(2, "bob")])
    log.record_rating(rating_of(0, ann))

    deletion = log.delete_listener(ann)

    assert (deletion.votes, deletion.ratings, deletion.pairs) == (2, 1, 1)
    assert log.delete_listener(ann) == deletion and list(log.deletions()) == [deletion]
    # what bob has answered stays, without its author; the rest is gone with its sound
    assert [vote.listener_id for vote in log.votes()] == ["bob", "bob"] and list(log.ratings()) == []
    assert [(pair.pair_id, pair.asked_by) for pair in log.pairs()] == [("pair-0", ""), ("pair-2", "")]
    assert list(log.clips()) == [clip_of(0), clip_of(1)] + [
        clip_of(number, prompt="a prompt of my own") for number in (4, 5)
    ]
    assert not log.audio.path(clip_of(2).clip_id + ".flac").exists() and log.sweep_audio(older_than_s=0) == []
    refused(Reason.GONE, log.record_vote, vote_of(1, ann, pair_id="pair-0", vote_id="new"))
    refused(Reason.GONE, log.listener, ann)
    refused(Reason.GONE, log.add_listener, listener_of(ann))
    refused(Reason.UNKNOWN, log.delete_listener, "stranger")
    for path in tmp_path.glob("log.sqlite*"):  # of SQLite the bytes themselves
        assert ann.encode() not in path.read_bytes()


def test_sound_without_a_clip_is_swept(log: PreferenceLog) -> None:
    fill(log)
    stray = log.audio.put(flac_of(9))
    assert log.sweep_audio() == [] and log.sweep_audio(older_than_s=0) == [stray]
    assert log.audio.read(clip_of(0).clip_id + ".flac") == flac_of(0)


def test_a_closed_log_says_so(log: PreferenceLog) -> None:
    fill(log)
    log.ping()
    log.close()
    with pytest.raises(Unavailable, match="closed"):
        log.record_vote(vote_of(0))


step = st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 2), st.sampled_from(list(Choice)), st.integers(0, 4))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(step, max_size=12))
def test_any_sequence_of_votes_is_recorded_once_each(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, Choice, int]]
) -> None:
    """Against a model in plain Python: ids are few, so that they come again with equal and with other content."""
    by_id: dict[str, tuple] = {}
    with PreferenceLog.open(str(tmp_path_factory.mktemp("votes") / "log.sqlite")) as log:
        fill(log, listeners=("ann", "bob"))
        receipts: dict[str, Receipt] = {}
        for listener, number, choice, identity in steps:
            said = (listener, number, choice)
            answered = {known[:2] for known in by_id.values()}
            vote = vote_of(number, listener, choice, vote_id=f"id-{identity}")
            if by_id.get(vote.vote_id, said) == said and (vote.vote_id in by_id or said[:2] not in answered):
                receipt = log.record_vote(vote)
                assert receipts.setdefault(vote.vote_id, receipt) == receipt
                by_id[vote.vote_id] = said
            else:
                refused(Reason.CONFLICT, log.record_vote, vote)
        stored = [(vote.listener_id, int(vote.pair_id[-1]), vote.choice) for vote in log.votes()]
        assert stored == list(by_id.values())
