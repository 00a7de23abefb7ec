"""A tune and six attributes become four seconds of arranged music: lists of timed notes, so that the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.attributes import MEAN_PITCH, NOTES_PER_S, Attributes
from world.tunes import Tune

CLIP_S = 4.0
# General MIDI programs, counted from 0
LEAD_PROGRAM = {
    "piano": 0,
    "violin": 40,
    "flute": 73,
    "trumpet": 56,
    "accordion": 21,
    "banjo": 105,
    "vibraphone": 11,
    "synth": 81,
}
CHORD_PROGRAM = {"guitar": 25, "strings": 48}
BASS_PROGRAM = 32
LEAD, CHORDS, BASS, DRUMS = 0, 1, 2, 9  # MIDI channels; 9 is percussion by the standard
KICK, SNARE, HAT, OPEN_HAT, CRASH = 36, 38, 42, 46, 49
CONGA, CONGA_LOW, SHAKER, TAMBOURINE = 62, 64, 70, 54
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True)
class Note:
    """One note: MIDI channel, pitch, velocity, start and length in seconds."""

    channel: int
    pitch: int
    velocity: int
    start_s: float
    length_s: float


@dataclass(frozen=True)
class Arrangement:
    """What is played in one clip. `roots` is (start_s, pitch class, minor?) of every bar's harmony, sounding or not."""

    notes: tuple[Note, ...]
    programs: dict[int, int]
    roots: tuple[tuple[float, int, bool], ...]
    notes_per_s: float


@dataclass(frozen=True)
class _Excerpt:
    """The melody of a clip, in seconds from its first bar line: (start_s, length_s, pitch)."""

    melody: list[tuple[float, float, int]]
    bar_s: float
    pulse_s: float
    tonic: int
    minor: bool


def arrange(tune: Tune, attributes: Attributes, rng: np.random.Generator) -> Arrangement:
    """Choose an excerpt of the tune and set it for the instruments that the attributes name."""
    excerpt = _excerpt(tune, attributes, rng)
    roots = _harmony(excerpt)
    notes = _lead(excerpt, attributes["articulation"], rng)
    programs = {LEAD: LEAD_PROGRAM[attributes["lead"]]}
    if attributes["chords"] != "none":
        programs |= {CHORDS: CHORD_PROGRAM[attributes["chords"]], BASS: BASS_PROGRAM}
        notes += _accompaniment(excerpt, roots, attributes["chords"], rng)
    if attributes["drums"] != "none":
        notes += _drums(excerpt, attributes["drums"], rng)
    onsets = sum(start < CLIP_S for start, _, _ in excerpt.melody)
    return Arrangement(tuple(n for n in notes if n.start_s < CLIP_S), programs, tuple(roots), onsets / CLIP_S)


def _excerpt(tune: Tune, attributes: Attributes, rng: np.random.Generator) -> _Excerpt:
    """Start at a bar line; go round to the tune's beginning where it ends too soon (they are dances: they repeat)."""
    end = max(onset + length for onset, length, _ in tune.notes)
    bars = max(1, round(end / tune.bar_quarters))
    cycle = bars * tune.bar_quarters
    first = int(rng.integers(bars)) * tune.bar_quarters
    within = [(onset, length, pitch) for onset, length, pitch in tune.notes if 0 <= onset < cycle]
    quarters = [((onset - first) % cycle, length, pitch) for onset, length, pitch in within]
    quarters += [(onset + cycle * n, length, pitch) for n in (1, 2, 3) for onset, length, pitch in quarters]
    rate = NOTES_PER_S[attributes["tempo"]] * float(rng.uniform(0.92, 1.08))
    quarter_s = _quarter_s(sorted(quarters), rate)
    timed = [(onset * quarter_s, length * quarter_s, pitch) for onset, length, pitch in sorted(quarters)]
    timed = [note for note in timed if note[0] < CLIP_S]
    target = MEAN_PITCH[attributes["register"]] + float(rng.uniform(-3, 3))
    shift = round(target - np.mean([pitch for _, _, pitch in timed]))
    melody = [(start, length, int(np.clip(pitch + shift, 30, 100))) for start, length, pitch in timed]
    bar_s = tune.bar_quarters * quarter_s
    return _Excerpt(melody, bar_s, _pulse_s(bar_s, tune), (tune.tonic + shift) % 12, tune.minor)


def _quarter_s(quarters: list[tuple[float, float, int]], rate: float) -> float:
    """Seconds a quarter such that the excerpt itself, not the whole tune, has `rate` notes a second."""
    wanted = round(rate * CLIP_S)
    return CLIP_S / max(quarters[min(wanted, len(quarters) - 1)][0], 1e-3)


def _pulse_s(bar_s: float, tune: Tune) -> float:
    """The beat that drums and chords keep: a part of the bar, 0.33 to 0.7 s where the bar allows it."""
    beats = round(tune.bar_quarters / 1.5) if tune.compound else max(1, round(tune.bar_quarters))
    pulse = bar_s / max(1, beats)
    while pulse > 0.75:
        pulse /= 2
    while pulse < 0.33:
        pulse *= 2
    return pulse


def _harmony(excerpt: _Excerpt) -> list[tuple[float, int, bool]]:
    """A diatonic triad for every bar: the one that covers most of the melody's sounding time, home chords favoured."""
    span = excerpt.bar_s
    while span > 2.2:
        span /= 2
    while span < 0.7:
        span *= 2
    return [(start, *_triad(excerpt, start, start + span)) for start in np.arange(0.0, CLIP_S, span).tolist()]


def _triad(excerpt: _Excerpt, start_s: float, end_s: float) -> tuple[int, bool]:
    weight = np.zeros(12)
    for onset, length, pitch in excerpt.melody:
        weight[pitch % 12] += max(0.0, min(onset + length, end_s) - max(onset, start_s))
    scale = MINOR if excerpt.minor else MAJOR
    favour = {0: 0.35, 4: 0.25, 3: 0.2}
    best, best_fit = (excerpt.tonic, excerpt.minor), -1.0
    for degree in (0, 3, 4, 5, 1, 2):
        root = (excerpt.tonic + scale[degree]) % 12
        third = (scale[(degree + 2) % 7] - scale[degree]) % 12
        tones = weight[root] * 1.1 + weight[(root + third) % 12] + weight[(root + 7) % 12]
        fit = tones + favour.get(degree, 0.0) * float(weight.sum()) * 0.5
        if fit > best_fit and third in (3, 4):
            best, best_fit = (root, third == 3), fit
    return best


def _lead(excerpt: _Excerpt, articulation: str, rng: np.random.Generator) -> list[Note]:
    notes = []
    for index, (start, length, pitch) in enumerate(excerpt.melody):
        following = excerpt.melody[index + 1][0] if index + 1 < len(excerpt.melody) else start + length
        gap = max(0.04, min(length, following - start) if following > start else length)
        sounding = gap * 0.98 + 0.02 if articulation == "legato" else min(gap * 0.38, 0.16)
        on_bar = abs(start / excerpt.bar_s - round(start / excerpt.bar_s)) < 0.02
        velocity = int(rng.normal(106 if on_bar else 96, 4))
        notes.append(Note(LEAD, pitch, int(np.clip(velocity, 70, 124)), start, sounding))
    return notes


def _accompaniment(
    excerpt: _Excerpt, roots: list[tuple[float, int, bool]], style: str, rng: np.random.Generator
) -> list[Note]:
    """Bass on the root (and the fifth half-way); a held pad for strings, strummed beats for the guitar."""
    notes: list[Note] = []
    for index, (start, root, minor) in enumerate(roots):
        end = roots[index + 1][0] if index + 1 < len(roots) else CLIP_S + 0.2
        notes += _bass(start, end, root)
        pitches = [48 + (root + step) % 12 for step in (0, 3 if minor else 4, 7)]
        if style == "strings":
            notes += [Note(CHORDS, pitch, 70, start, end - start - 0.03) for pitch in pitches]
            notes.append(Note(CHORDS, 60 + root % 12, 62, start, end - start - 0.03))
        else:
            notes += _strum(pitches, start, end, excerpt.pulse_s, rng)
    return notes


def _bass(start_s: float, end_s: float, root: int) -> list[Note]:
    low = 36 + root if root < 8 else 24 + root
    half = (end_s - start_s) / 2
    return [Note(BASS, low, 92, start_s, half * 0.9), Note(BASS, low + 7, 80, start_s + half, half * 0.8)]


def _strum(pitches: list[int], start_s: float, end_s: float, pulse_s: float, rng: np.random.Generator) -> list[Note]:
    full = [*pitches, pitches[0] + 12]
    notes = []
    for beat, at in enumerate(np.arange(start_s, end_s - 0.05, pulse_s).tolist()):
        velocity = int(np.clip(rng.normal(84 if beat % 2 == 0 else 72, 4), 50, 110))
        order = full if beat % 2 == 0 else full[::-1]
        notes += [
            Note(CHORDS, pitch, velocity, at + 0.012 * string, pulse_s * 0.75) for string, pitch in enumerate(order)
        ]
    return notes


def _drums(excerpt: _Excerpt, style: str, rng: np.random.Generator) -> list[Note]:
    notes: list[Note] = []
    half = excerpt.pulse_s / 2
    for step, at in enumerate(np.arange(0.0, CLIP_S, half).tolist()):
        hits = _rock(step, rng) if style == "rock" else _hand(step, rng)
        notes += [
            Note(DRUMS, pitch, int(np.clip(velocity + rng.normal(0, 3), 30, 127)), at, half * 0.8)
            for pitch, velocity in hits
        ]
    return notes


def _rock(step: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Eighths on the hi-hat, bass drum on one and three, snare on two and four, now and then a push."""
    hits = [(HAT, 78 if step % 2 == 0 else 62)]
    beat = step % 8
    if beat in (0, 4) or (beat in (3, 5) and rng.random() < 0.25):
        hits.append((KICK, 108))
    if beat in (2, 6):
        hits.append((SNARE, 98))
    if step == 0 and rng.random() < 0.3:
        hits.append((CRASH, 80))
    return hits


def _hand(step: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Shaker on every eighth, congas in answer, a tambourine on the backbeat."""
    hits = [(SHAKER, 104 if step % 2 == 0 else 84)]
    beat = step % 8
    if beat in (0, 3, 6) or (beat == 5 and rng.random() < 0.4):
        hits.append((CONGA if beat in (0, 6) else CONGA_LOW, 104))
    if beat in (2, 6):
        hits.append((TAMBOURINE, 88))
    return hits
