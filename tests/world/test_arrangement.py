"""Arrangements do what their attributes say, by the notes themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from world.arrangement import BASS, CHORDS, CLIP_S, DRUMS, LEAD, Arrangement, arrange
from world.attributes import ATTRIBUTES, MEAN_PITCH, NOTES_PER_S, Attributes, draw_attributes
from world.tunes import Tune

BASE: Attributes = {
    "lead": "flute",
    "tempo": "medium",
    "drums": "none",
    "chords": "none",
    "register": "middle",
    "articulation": "legato",
}
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


@pytest.fixture
def tune() -> Tune:
    rng = np.random.default_rng(0)
    pitches = [67 + SCALE[int(rng.integers(8))] for _ in range(64)]
    notes = tuple((i * 0.5, 0.5, pitch) for i, pitch in enumerate(pitches))
    return Tune("t", "T", "ryansMammoth", 7, False, 2.0, False, notes)


def _with(tune: Tune, seed: int = 0, **changes: str) -> Arrangement:
    return arrange(tune, {**BASE, **changes}, np.random.default_rng(seed))


def _lead(music: Arrangement) -> list:
    return [note for note in music.notes if note.channel == LEAD]


@pytest.mark.parametrize("tempo", ATTRIBUTES["tempo"])
def test_tempo_is_the_note_rate(tune: Tune, tempo: str) -> None:
    for seed in range(8):
        music = _with(tune, seed, tempo=tempo)
        assert music.notes_per_s == pytest.approx(NOTES_PER_S[tempo], rel=0.15)
        assert len(_lead(music)) == round(music.notes_per_s * CLIP_S)


@pytest.mark.parametrize("register", ATTRIBUTES["register"])
def test_register_is_the_mean_pitch(tune: Tune, register: str) -> None:
    for seed in range(8):
        pitches = [note.pitch for note in _lead(_with(tune, seed, register=register))]
        assert abs(np.mean(pitches) - MEAN_PITCH[register]) < 5


def test_staccato_notes_stop_early_and_legato_notes_touch(tune: Tune) -> None:
    for seed in range(4):
        long, short = (_lead(_with(tune, seed, articulation=a)) for a in ("legato", "staccato"))
        gaps = [b.start_s - a.start_s for a, b in itertools.pairwise(long)]
        assert all(a.length_s > 0.95 * gap for a, gap in zip(long, gaps, strict=False))
        assert all(a.length_s < 0.5 * gap for a, gap in zip(short, gaps, strict=False))


def test_parts_sound_only_when_asked_for(tune: Tune) -> None:
    assert {note.channel for note in _with(tune).notes} == {LEAD}
    assert {note.channel for note in _with(tune, drums="rock").notes} == {LEAD, DRUMS}
    assert {note.channel for note in _with(tune, chords="strings").notes} == {LEAD, CHORDS, BASS}


def test_the_styles_differ(tune: Tune) -> None:
    rock, hand = ({n.pitch for n in _with(tune, drums=d).notes if n.channel == DRUMS} for d in ("rock", "hand"))
    assert not rock & hand
    guitar, strings = ([n for n in _with(tune, chords=c).notes if n.channel == CHORDS] for c in ("guitar", "strings"))
    assert len(guitar) > len(strings)
    assert _with(tune, chords="guitar").programs != _with(tune, chords="strings").programs


def test_harmony_fits_the_melody() -> None:
    """Bars of a tonic arpeggio, then of a dominant one, get these chords."""
    tonic, dominant = [60, 64, 67, 64] * 2, [67, 71, 74, 71] * 2
    pitches = (tonic + dominant) * 4
    tune = Tune("t", "T", "x", 0, False, 2.0, False, tuple((i * 0.25, 0.25, p) for i, p in enumerate(pitches)))
    music = _with(tune, chords="strings")
    shift = (_lead(music)[0].pitch - 60) % 12
    first_is_tonic = {(n.pitch - shift) % 12 for n in _lead(music)[:8]} == {0, 4, 7}
    shift = shift if first_is_tonic else (_lead(music)[0].pitch - 67) % 12
    roots = {(root - shift) % 12 for _, root, _ in music.roots}
    assert roots == {0, 7}
    assert not any(minor for _, _, minor in music.roots)


def test_notes_are_playable_and_the_same_each_time(tune: Tune) -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        attributes = draw_attributes(rng)
        music, again = (arrange(tune, attributes, np.random.default_rng(seed)) for _ in range(2))
        assert music == again
        for note in music.notes:
            assert 0 <= note.pitch < 128
            assert 1 <= note.velocity < 128
            assert 0 <= note.start_s < CLIP_S
            assert note.length_s > 0


def test_a_short_tune_goes_round() -> None:
    notes = tuple((i * 0.5, 0.5, 60 + i % 5) for i in range(24))
    music = _with(Tune("t", "T", "x", 0, False, 2.0, False, notes), tempo="fast")
    starts = [note.start_s for note in _lead(music)]
    assert max(starts) > 3.5
    assert max(np.diff(sorted(starts))) < 0.3
