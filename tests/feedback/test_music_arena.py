"""Music Arena battles in and out, both shapes, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import UserError
from feedback.battle import Shape, Unusable, heard_seconds, read_battle
from feedback.battle_export import export_battles
from feedback.battle_import import import_battles
from feedback.exchange import export_log, import_log
from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Consent, ListenerKind, Played
from tests.feedback.arena_parts import (
    UNIX_S,
    audio_of,
    files_of,
    flat_battle,
    raw_battle,
    write_flat,
    write_json,
    write_raw,
)
from tests.feedback.log_parts import fill, listener_of, rating_of, vote_of

SUFFIXES = ("flac", "wav", "mp3", "ogg")


def write_both(root: Path) -> None:
    """Eight battles: two shapes, four kinds of sound, four preferences."""
    for number, suffix in enumerate(SUFFIXES):
        write_flat(root / "released", number, suffix)
        write_raw(root / "own", number, suffix)


def test_both_shapes_come_out_as_they_went_in(log: PreferenceLog, tmp_path: Path) -> None:
    write_both(tmp_path / "in")
    report = import_battles(log, tmp_path / "in")
    assert (report.taken, report.left_out) == (8, [])
    out = export_battles(log, tmp_path / "out")
    assert (out.taken, out.left_out) == (8, [])
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")
    again = import_battles(log, tmp_path / "in")
    assert (again.taken, again.present, again.left_out) == (0, 8, [])


def test_also_by_way_of_parquet(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_both(tmp_path / "in")
    import_battles(sqlite_log, tmp_path / "in")
    export_log(sqlite_log, tmp_path / "parquet")
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        assert import_log(other, tmp_path / "parquet").left_out == []
        export_battles(other, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")


def test_what_the_records_say(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_both(tmp_path / "in")
    import_battles(sqlite_log, tmp_path / "in", Consent.COUNT)
    votes = {vote.vote_id[0] + vote.vote_id[-1]: vote for vote in sqlite_log.votes(study="music_arena")}
    assert [votes[f"0{number}"].choice for number in range(4)] == list(Choice)
    assert [votes[f"1{number}"].choice for number in range(4)] == list(Choice)
    flat, raw = votes["00"], votes["12"]
    assert flat.voted_at.timestamp() == UNIX_S and raw.voted_at.timestamp() == UNIX_S
    assert flat.played_a.seconds == pytest.approx(1.25, abs=1e-6)
    assert flat.played_b == Played(((0.0, 2.0),))  # 7.5 s of a clip of 2 s
    assert raw.played_a.seconds == pytest.approx(1.5, abs=1e-6)
    assert raw.played_b.seconds == pytest.approx(0.75, abs=1e-6)
    pair = sqlite_log.pair(raw.pair_id)
    clip = sqlite_log.clip(pair.clip_b)
    assert (pair.prompt, pair.study, pair.asked_by) == ("fast drums", "music_arena", "music-arena:salted2")
    assert (clip.policy, clip.policy_version, clip.codes, clip.seconds) == (
        "sao",
        "initial",
        None,
        pytest.approx(2, 0.1),
    )
    listener = sqlite_log.listener("music-arena:salted2")
    assert (listener.kind, listener.consent, listener.group) == (ListenerKind.PERSON, Consent.COUNT, "music_arena")


def test_equal_sound_of_two_systems_is_two_clips(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    for number in (0, 1):
        write_flat(tmp_path / "in", number, "wav", audio_b=f"audio_files/01-2025JULAUG/{number}-a.wav")
    (tmp_path / "in/audio_files/01-2025JULAUG/1-a.wav").write_bytes(audio_of(0, "wav"))
    for path in (tmp_path / "in").rglob("*-b.wav"):
        path.unlink()
    assert import_battles(sqlite_log, tmp_path / "in").taken == 2
    assert {clip.policy for clip in sqlite_log.clips()} == {"musicgen-small", "sao"}
    assert len(list(sqlite_log.audio.names())) == 2  # one WAV, one FLAC
    export_battles(sqlite_log, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")


def test_sparse_battles_are_taken(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    nothing = dict.fromkeys(["prompt", "user_pseudonym", "timestamp", "lyrics", "duration_a", "total_listening_time_b"])
    write_flat(tmp_path / "in", 0, "flac", **nothing, listen_data_a="", system_a=None)
    lean = write_raw(tmp_path / "in", 1, "flac", prompt=None, prompt_user=None, prompt_prebaked=None, timings=None)
    del lean["prompt_session"], lean["vote"]["b_listen_data"], lean["vote"]["preference_time"]
    lean |= {"prompt_session": {"create_time": 1_700_000_000}, "b_metadata": None}
    lean["prompt_detailed"] = {"instrumental": False}
    lean["a_metadata"]["lyrics"] = "la " * 50
    write_json(tmp_path / "in/logs/1.json", lean)
    write_raw(tmp_path / "in", 2, "flac", prompt="a prompt as text", prompt_detailed=None)
    assert import_battles(sqlite_log, tmp_path / "in").left_out == []
    prompts = {pair.pair_id[0] + pair.pair_id[-1]: pair.prompt for pair in sqlite_log.pairs()}
    assert prompts == {"00": "", "11": "(Lyrics) " + ("la " * 50)[:100] + "...", "12": "a prompt as text"}
    assert sqlite_log.listener("music-arena:anonymous:" + lean["uuid"]).consent is Consent.TRAIN
    export_battles(sqlite_log, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")


BROKEN = {
    "cut.json": b'{"battle_uuid": "x", "prompt": ',
    "empty.json": b"",
    "latin.json": '{"battle_uuid": "é"}'.encode("latin-1"),
    "nan.json": b'{"battle_uuid": "x", "timestamp": NaN}',
    "list.json": b"[]",
    "text.json": b'"battle"',
    "deep.json": b"[" * 100_000,
    "digits.json": b'{"battle_uuid": "x", "timestamp": ' + b"9" * 5000 + b"}",
    "other.json": b'{"name": "something else"}',
}
EXPECTED = {
    "cut.json": "bad JSON: ",
    "empty.json": "bad JSON: ",
    "latin.json": "bad JSON: no UTF-8",
    "nan.json": "bad JSON: NaN is no JSON",
    "list.json": "wrong type: the file holds a list",
    "text.json": "wrong type: the file holds text",
    "deep.json": "bad JSON: nested too deeply",
    "digits.json": "bad JSON: ",
    "other.json": "unknown shape: ",
}


def broken_battles() -> dict[str, tuple[dict, str]]:
    """Name -> (battle whose sound is there, the reason)."""
    vote = raw_battle(0, "flac")["vote"]
    far = {"salted_ip": "x" * 500}
    return {
        "no-id": (flat_battle(0, "flac", battle_uuid=None), "no id: battle_uuid is missing"),
        "blank-id": (flat_battle(0, "flac", battle_uuid="a b"), "invalid: "),
        "who": (flat_battle(0, "flac", preference="C"), "unknown preference: 'C', allowed A, B, TIE, BOTH_BAD"),
        "lower": (flat_battle(0, "flac", preference="a"), "unknown preference: 'a'"),
        "unvoted": (flat_battle(0, "flac", preference=None), "no vote: preference is missing"),
        "raw-unvoted": (raw_battle(0, "flac", vote=None), "no vote: the battle was not voted on"),
        "number": (flat_battle(0, "flac", prompt=7), "wrong type: prompt is a number, allowed text"),
        "time": (flat_battle(0, "flac", timestamp="noon"), "wrong type: timestamp is text, allowed a number"),
        "late": (flat_battle(0, "flac", timestamp=1e300), "unknown value: timestamp 1e+300 is no time"),
        "early": (flat_battle(0, "flac", timestamp=-5.0), "invalid: "),
        "never": (flat_battle(0, "flac", timestamp=None, date=None), "no time: neither timestamp nor date"),
        "date": (flat_battle(0, "flac", timestamp=None, date="monday"), "wrong type: date 'monday' is no ISO date"),
        "events": (flat_battle(0, "flac", listen_data_a="[["), "wrong type: listen_data_a is no JSON"),
        "event": (flat_battle(0, "flac", listen_data_a='[["PLAY"]]'), "wrong type: listen_data_a holds a list"),
        "when": (flat_battle(0, "flac", listen_data_a='[["PLAY", "x"]]'), "wrong type: listen_data_a is text"),
        "vote": (raw_battle(0, "flac", vote=[1]), "wrong type: vote is a list, allowed an object"),
        "raw-who": (raw_battle(0, "flac", vote=vote | {"preference": 3}), "unknown preference: '3'"),
        "user": (raw_battle(0, "flac", prompt_user=far), "invalid: listener_id"),
        "nul": (flat_battle(0, "flac", prompt="\x00"), "invalid: prompt"),
        "private": (flat_battle(0, "flac", audio_a=""), "missing audio: none is named for clip a"),
        "absent": (flat_battle(0, "flac", audio_b="audio_files/none.mp3"), "missing audio: 'audio_files/none.mp3'"),
        "outside": (flat_battle(0, "flac", audio_a="../../secret.flac"), "missing audio: '../../secret.flac'"),
        "absolute": (flat_battle(0, "flac", audio_a="/etc/hostname"), "missing audio: '/etc/hostname'"),
        "long": (flat_battle(0, "flac", audio_a="x" * 5000), "missing audio: 'xxx"),
        "null-path": (flat_battle(0, "flac", audio_a="a\x00b"), "missing audio: 'a\\x00b'"),
        "folder": (flat_battle(0, "flac", audio_a="audio_files"), "missing audio: 'audio_files'"),
        "cut-flac": (flat_battle(0, "flac", audio_a="cut.flac"), "damaged audio: got a truncated or damaged FLAC file"),
        "cut-mp3": (flat_battle(0, "flac", audio_a="cut.mp3"), "truncated audio: "),
        "cut-wav": (flat_battle(0, "flac", audio_a="cut.wav"), "truncated audio: shorter than its own header says"),
        "cut-ogg": (flat_battle(0, "flac", audio_a="cut.ogg"), "damaged audio: cannot be decoded"),
        "noise": (flat_battle(0, "flac", audio_a="noise.mp3"), "damaged audio: cannot be decoded (noise.mp3)"),
        "none": (flat_battle(0, "flac", audio_a="none.wav"), "damaged audio: cannot be decoded (none.wav)"),
    }


def test_a_folder_of_broken_files_gives_a_report(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_flat(root, 0, "flac")
    write_raw(root, 0, "flac")
    for name in ("battle_data/01-2025JULAUG/0.json", "logs/0.json"):
        (root / name).unlink()
    write_flat(root, 5, "mp3")
    (tmp_path / "secret.flac").write_bytes(audio_of(0, "flac"))
    for suffix in SUFFIXES:
        whole = audio_of(0, suffix)
        (root / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (root / "noise.mp3").write_bytes(b"no sound at all" * 99)
    (root / "none.wav").write_bytes(b"")
    expected = dict(EXPECTED)
    for name, data in BROKEN.items():
        (root / name).write_bytes(data)
    for name, (battle, reason) in broken_battles().items():
        path = root / f"{name}.json"
        path.write_text(json.dumps(battle))
        expected[path.name] = reason
    (root / "folder.json.d").mkdir()
    (root / "dangling.json").symlink_to(root / "nowhere")
    expected["dangling.json"] = "unreadable file: No such file or directory"

    report = import_battles(sqlite_log, root)

    found = dict(report.left_out)
    assert set(found) == set(expected)
    wrong = {name: found[name] for name, reason in expected.items() if not found[name].startswith(reason)}
    assert wrong == {}
    assert all("\n" not in reason and len(reason) < 200 for reason in found.values())
    # nothing of them is in the log, and the one good battle is
    assert report.taken == 1 and sqlite_log.counts().votes == 1
    assert sqlite_log.counts().clips == 2 and sqlite_log.counts().listeners == 1


def test_the_same_id_with_another_content(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_flat(tmp_path / "one", 0, "flac")
    write_flat(tmp_path / "two", 0, "flac", preference="B")
    import_battles(sqlite_log, tmp_path / "one")
    assert import_battles(sqlite_log, tmp_path / "two").left_out == [
        ("battle_data/01-2025JULAUG/0.json", "conflict: battle: another one of this id is in the log")
    ]


def test_two_folders_with_equal_names_stand_side_by_side(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_flat(tmp_path / "one", 0, "flac")
    other = write_flat(tmp_path / "two", 0, "flac", battle_uuid="another")
    (tmp_path / "two/audio_files/01-2025JULAUG/0-a.flac").write_bytes(audio_of(50, "flac"))
    for name in ("one", "two"):
        import_battles(sqlite_log, tmp_path / name)
    export_battles(sqlite_log, tmp_path / "out")
    second = {f"2/{place}": content for place, content in files_of(tmp_path / "two").items()}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one") | second
    assert json.loads((tmp_path / "out/2/battle_data/01-2025JULAUG/0.json").read_text()) == other


def test_deleted_listeners_do_not_come_back(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_both(tmp_path / "in")
    import_battles(sqlite_log, tmp_path / "in")
    deletion = sqlite_log.delete_listener("music-arena:salted1")
    assert (deletion.votes, deletion.pairs) == (3, 3)  # the flat ones of salted1, and a raw one
    again = import_battles(sqlite_log, tmp_path / "in")
    assert again.present == 5 and [reason.partition(":")[0] for _, reason in again.left_out] == ["deleted"] * 3
    sqlite_log.sweep_audio(older_than_s=0)
    assert "salted1" not in "".join(pair.origin for pair in sqlite_log.pairs())


@pytest.mark.parametrize("shape", list(Shape))
def test_own_votes_go_out_and_are_understood(sqlite_log: PreferenceLog, tmp_path: Path, shape: Shape) -> None:
    fill(sqlite_log, pairs=5, listeners=("ann", "shy"))
    sqlite_log.add_listener(listener_of("sim", kind=ListenerKind.SIMULATED))
    sqlite_log.set_consent("shy", Consent.COUNT)
    votes = [vote_of(number, choice=choice) for number, choice in enumerate(Choice)]
    deaf = vote_of(4, played_b=Played(), vote_id="../../odd/name")
    sqlite_log.record_votes([*votes, vote_of(0, "shy"), deaf, vote_of(1, "sim")])
    sqlite_log.record_rating(rating_of(0))
    report = export_battles(sqlite_log, tmp_path / "out", shape, min_heard_s=0.1)
    assert dict(report.left_out) == {
        "vote vote-shy-0": "consent: count, asked for train",
        "vote ../../odd/name": "not heard long enough: asked for 0.1 s of each clip",
        "ratings": "no battle: 1 ratings have no place in this format",
    }
    everything = export_battles(sqlite_log, tmp_path / "all", shape, consent=Consent.COUNT)
    assert everything.taken == 7 and all(place.is_relative_to(tmp_path) for place in tmp_path.rglob("*odd*"))
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        assert import_battles(other, tmp_path / "out").left_out == []
        back = {vote.vote_id: vote for vote in other.votes()}
        assert len(back) == 5
        for vote in votes:
            found = back[vote.vote_id]
            assert (found.choice, found.voted_at) == (vote.choice, vote.voted_at)
            assert found.played_a.seconds == pytest.approx(vote.played_a.seconds, abs=1e-5)
        kinds = {listener.listener_id: listener.kind for listener in other.listeners()}
        assert kinds == {"music-arena:ann": ListenerKind.PERSON, "music-arena:sim": ListenerKind.SIMULATED}


def test_imported_battles_in_the_other_shape(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    write_both(tmp_path / "in")
    import_battles(sqlite_log, tmp_path / "in")
    export_battles(sqlite_log, tmp_path / "out", Shape.RAW)
    read = [read_battle(json.loads(path.read_text())) for path in (tmp_path / "out").rglob("*.json")]
    assert len(read) == 8 and {battle.shape for battle in read} == {Shape.RAW}
    with PreferenceLog.open(str(tmp_path / "other" / "log.sqlite")) as other:
        assert import_battles(other, tmp_path / "out").left_out == []


@pytest.mark.parametrize(
    ("events", "heard_s"),
    [
        (None, 0.0),
        ([], 0.0),
        ([["PLAY", 10.0], ["PAUSE", 12.5]], 2.5),
        ([["PLAY", 10], ["TICK", 11], ["TICK", 12], ["STOP", 12.5]], 2.5),
        ([["PLAY", 10.0], ["TICK", 11.0]], 1.0),  # closed while playing
        ([["PLAY", 10.0], ["PAUSE", 11.0], ["PAUSE", 15.0], ["PLAY", 20.0], ["PAUSE", 20.5]], 1.5),
        ([["PLAY", 10.0], ["PLAY", 11.0], ["PAUSE", 12.0]], 2.0),
        ([["PAUSE", 10.0], ["STOP", 11.0]], 0.0),
        ([["PLAY", 10.0], ["SEEK", 11.0], ["PAUSE", 12.0]], 2.0),
        ([["PLAY", 10.0], ["PAUSE", 9.0]], 0.0),  # a clock that stepped back
        ([{"action": "PLAY", "time": 1.0}, {"action": "PAUSE", "time": 3.0}], 2.0),
        ([["PLAY", 10.0], [None, None], ["PAUSE", 11.0]], 1.0),
    ],
)
def test_heard_time(events: object, heard_s: float) -> None:
    assert heard_seconds(events, "events") == heard_s


def test_no_list_of_events() -> None:
    for events in ({"PLAY": 1}, ["PLAY"], [["PLAY", True]], [["PLAY", 1, 2]], "PLAY", 3):
        with pytest.raises(Unusable, match="wrong type"):
            heard_seconds(events, "events")


def test_folders_without_battles_are_refused(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "audio"):
        with pytest.raises(UserError, match="battles as JSON files"):
            import_battles(sqlite_log, path)
