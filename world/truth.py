"""What sounds when, frame by frame, from the notes that made the clips: truth for semantic features and for tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from world.arrangement import CLIP_S, DRUMS, KICK, LEAD, SNARE
from world.render import LEAD_IN_S

FRAME_RATE_HZ = 25
FRAMES = int(CLIP_S * FRAME_RATE_HZ)
HEIGHTS = (36, 44, 52, 60, 68, 76, 84, 92)  # lower edges of the lead's pitch bands
# Columns of a frame's facts
PITCH_CLASS, ROOT, HEIGHT = slice(0, 12), slice(12, 24), slice(24, 24 + len(HEIGHTS))
LEAD_ONSET, LEAD_SOUNDS, KICK_ONSET, SNARE_ONSET, DRUM_ONSET, CHORDS_SOUND = range(24 + len(HEIGHTS), 30 + len(HEIGHTS))
FACTS = 30 + len(HEIGHTS)


def frame_facts(scores: pa.Table, chords: list[str]) -> np.ndarray:
    """The facts of every clip, uint8 [clips, 100, FACTS]. `chords` is each clip's attribute: silent harmony is none."""
    rows = zip(scores["notes"].to_pylist(), scores["roots"].to_pylist(), chords, strict=True)
    return np.stack([_clip_facts(notes, roots, name != "none") for notes, roots, name in rows])


def _clip_facts(notes: list[dict], roots: list[dict], harmony: bool) -> np.ndarray:
    facts = np.zeros((FRAMES, FACTS), np.uint8)
    for note in notes:
        first = _frame(note["start_s"])
        if note["channel"] == LEAD:
            last = max(first + 1, _frame(note["start_s"] + note["length_s"]))
            band = max(i for i, low in enumerate(HEIGHTS) if note["pitch"] >= low or i == 0)
            facts[first:last, note["pitch"] % 12] = 1
            facts[first:last, HEIGHT.start + band] = 1
            facts[first:last, LEAD_SOUNDS] = 1
            facts[first : first + 1, LEAD_ONSET] = 1
        elif note["channel"] == DRUMS:
            facts[first : first + 1, DRUM_ONSET] = 1
            for pitch, column in ((KICK, KICK_ONSET), (SNARE, SNARE_ONSET)):
                if note["pitch"] == pitch:
                    facts[first : first + 1, column] = 1
    if harmony:
        _mark_roots(facts, roots)
    return facts


def _mark_roots(facts: np.ndarray, roots: list[dict]) -> None:
    facts[:, CHORDS_SOUND] = 1
    ends = [_frame(root["start_s"]) for root in roots[1:]] + [FRAMES]
    for root, end in zip(roots, ends, strict=True):
        facts[_frame(root["start_s"]) : end, ROOT.start + root["root"]] = 1


def _frame(seconds: float) -> int:
    return round((seconds + LEAD_IN_S) * FRAME_RATE_HZ)
