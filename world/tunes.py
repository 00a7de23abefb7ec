"""The tunes: melodies of Ryan's Mammoth Collection, out of copyright, read from the corpus that music21 carries.

What is taken and what is left out, and why, is in `COLLECTIONS`; the model card repeats it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

COLLECTIONS = {
    "ryansMammoth": {
        "used": True,
        "name": "Ryan's Mammoth Collection (Elias Howe, Boston 1883)",
        "rights": "Published in 1883, so the tunes are in the public domain. The ABC transcriptions name their "
        "contributors and carry no licence or reservation; note-for-note transcriptions of printed melodies, used "
        "here only to render audio. music21 ships them 'with the permission of the encoders' (corpus/license.txt).",
    },
    "ryansMammoth (only the 1940 reprint named)": {
        "used": False,
        "name": "files whose source line names only Cole's 1000 Fiddle Tunes (1940)",
        "rights": "Known as a reprint of the 1883 plates, but the file itself does not say so: left out.",
    },
    "essenFolksong": {"used": False, "name": "Essen folk songs", "rights": "legal status unclear by its own file"},
    "oneills1850": {"used": False, "name": "O'Neill's Music of Ireland", "rights": "transcribers' terms not stated"},
    "airdsAirs": {"used": False, "name": "Aird's Airs", "rights": "transcribers' terms not stated"},
}
MIN_NOTES = 24
_RESERVED = re.compile(r"copyright|permission|all rights|©|\(c\)\s*\d", re.IGNORECASE)


@dataclass(frozen=True)
class Tune:
    """A melody. Times in quarter notes from its first full bar; `notes` is (onset, duration, midi pitch) in order."""

    tune_id: str
    title: str
    collection: str
    tonic: int  # pitch class 0..11
    minor: bool
    bar_quarters: float
    compound: bool  # 6/8, 9/8, 12/8: the pulse is three eighths
    notes: tuple[tuple[float, float, int], ...]


def load_tunes(cache: Path, workers: int = 2, limit: int | None = None) -> list[Tune]:
    """All usable tunes, parsed once and cached as JSON at `cache`; `limit` takes the first files only."""
    if cache.exists():
        return [_tune(row) for row in json.loads(cache.read_text())]
    from music21 import corpus

    paths = sorted(str(path) for path in corpus.getComposer("ryansMammoth"))[:limit]
    print(f"tunes: parsing {len(paths)} files", flush=True)
    with ProcessPoolExecutor(workers) as pool:
        tunes = [tune for tune in pool.map(parse_file, paths, chunksize=20) if tune is not None]
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(tune) for tune in tunes]))
    partial.rename(cache)
    print(f"tunes: {len(tunes)} kept of {len(paths)}", flush=True)
    return tunes


def parse_file(path: str) -> Tune | None:
    """One ABC file -> its melody, or None where the source is not clearly free or the music is not usable."""
    from music21 import converter

    text = Path(path).read_text(encoding="latin-1")
    if not source_is_free(text):
        return None
    try:
        score = converter.parse(path, forceSource=True)
        return _melody(Path(path).stem, score)
    except Exception as error:  # music21 raises many kinds on broken notation; a tune less is no loss
        print(f"tunes: {Path(path).name} left out: {type(error).__name__}", flush=True)
        return None


def source_is_free(text: str) -> bool:
    """True if no reservation of rights is in the file and its book, where one is named, is Ryan's of 1883."""
    books = re.findall(r"^B: *(.+)$", text, re.MULTILINE)
    return not _RESERVED.search(text) and (not books or any(book.startswith("Ryan") for book in books))


def _melody(tune_id: str, score: object) -> Tune | None:
    flat = score.flatten()  # type: ignore[attr-defined]
    meter = next(iter(flat.getElementsByClass("TimeSignature")))
    signature = next(iter(flat.getElementsByClass("KeySignature")))
    key = signature if hasattr(signature, "tonic") else signature.asKey()
    notes = [
        (float(n.offset), float(n.quarterLength), int(n.pitches[-1].midi)) for n in flat.notes if n.quarterLength > 0
    ]
    if len(notes) < MIN_NOTES or float(meter.barDuration.quarterLength) <= 0:
        return None
    shift = _pickup(score)
    aligned = tuple((round(onset - shift, 4), round(length, 4), pitch) for onset, length, pitch in notes)
    title = (score.metadata.title if score.metadata else None) or tune_id  # type: ignore[attr-defined]
    return Tune(
        tune_id,
        str(title),
        "ryansMammoth",
        int(key.tonic.pitchClass),
        str(key.mode) in {"minor", "dorian", "aeolian", "phrygian"},
        float(meter.barDuration.quarterLength),
        meter.numerator in {6, 9, 12} and meter.denominator == 8,
        aligned,
    )


def _pickup(score: object) -> float:
    """Quarter notes before the first full bar."""
    measures = list(score.recurse().getElementsByClass("Measure"))  # type: ignore[attr-defined]
    if len(measures) < 2:
        return 0.0
    full = measures[0].barDuration.quarterLength
    short = 0 < measures[0].duration.quarterLength < full
    return float(measures[1].offset) if short else 0.0


def _tune(row: dict) -> Tune:
    return Tune(**{**row, "notes": tuple((float(a), float(b), int(c)) for a, b, c in row["notes"])})


def split_by_tune(
    tunes: list[Tune], shares: dict[str, float], shuffle: Callable[[list], None]
) -> dict[str, list[Tune]]:
    """Whole tunes to splits, by share. Tunes with the same title or the same opening count as one."""
    families = list(_families(tunes).values())
    shuffle(families)
    splits: dict[str, list[Tune]] = {name: [] for name in shares}
    for family in families:
        short = min(shares, key=lambda name: len(splits[name]) / shares[name])
        splits[short].extend(family)
    return splits


def _families(tunes: list[Tune]) -> dict[str, list[Tune]]:
    """Tunes that a chain of shared titles or openings joins, under the first one's name."""
    home: dict[str, str] = {}  # of tunes and of marks: one step towards the family's first tune

    def first(name: str) -> str:
        while home.get(name, name) != name:
            name = home[name]
        return name

    in_order = sorted(tunes, key=lambda t: t.tune_id)
    for tune in in_order:
        roots = [tune.tune_id, *(first(mark) for mark in (_title_mark(tune), _opening_mark(tune)) if mark in home)]
        oldest = roots[1] if len(roots) > 1 else tune.tune_id
        home.update(dict.fromkeys([*roots, _title_mark(tune), _opening_mark(tune)], oldest))
    families: dict[str, list[Tune]] = {}
    for tune in in_order:
        families.setdefault(first(tune.tune_id), []).append(tune)
    return families


def _title_mark(tune: Tune) -> str:
    words = re.sub(r"[^a-z ]", "", tune.title.lower().split("--")[0].split(" - ")[0])
    return "title:" + " ".join(sorted(set(words.split()) - {"the", "a", "no"}))


def _opening_mark(tune: Tune) -> str:
    """Intervals of the first twelve notes of the first full bar on: the same in every key and octave."""
    pitches = [pitch for onset, _, pitch in tune.notes if onset >= 0][:13]
    return "opening:" + ",".join(str(b - a) for a, b in itertools.pairwise(pitches))
