"""The truth about a clip: six attributes, drawn uniformly and independently of each other and of the tune."""

from __future__ import annotations

import numpy as np

Attributes = dict[str, str]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "lead": ("piano", "violin", "flute", "trumpet", "accordion", "banjo", "vibraphone", "synth"),
    "tempo": ("slow", "medium", "fast"),
    "drums": ("none", "rock", "hand"),
    "chords": ("none", "guitar", "strings"),
    "register": ("low", "middle", "high"),
    "articulation": ("legato", "staccato"),
}

# Tempo is defined on the melody's note rate: tunes are notated in different units, so BPM would say nothing.
NOTES_PER_S = {"slow": 2.2, "medium": 4.0, "fast": 7.0}
MEAN_PITCH = {"low": 51, "middle": 64, "high": 77}


def draw_attributes(rng: np.random.Generator) -> Attributes:
    """One value of every attribute, uniformly."""
    return {name: values[int(rng.integers(len(values)))] for name, values in ATTRIBUTES.items()}


def other_value(name: str, value: str, rng: np.random.Generator) -> str:
    """A value of the attribute that is not `value`."""
    others = [candidate for candidate in ATTRIBUTES[name] if candidate != value]
    return others[int(rng.integers(len(others)))]
