"""The measures on sounds whose truth is known."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from simulated_parts import notes

from feedback.simulated_measures import MEASURES, loudness_db, measure

STRICT = [0.25 + 0.5 * i for i in range(7)]
LOOSE = [0.25, 0.6, 1.45, 1.7, 2.62, 3.1, 3.75]


def test_liveliness_counts_notes():
    slow = measure(notes(STRICT, [20] * 7))["liveliness"][0]
    fast = measure(notes([0.25 * i + 0.1 for i in range(15)], [20] * 15))["liveliness"][0]
    assert slow == np.log(7 / 4 + 0.5) and fast == np.log(15 / 4 + 0.5)


def test_brightness_follows_the_band():
    dark, bright = (measure(notes(STRICT, [band] * 7))["brightness"][0] for band in (14, 40))
    assert dark + 0.3 < bright


def test_pulse_tells_a_strict_beat_from_a_loose_one():
    strict, loose = (measure(notes(starts, [20] * 7))["pulse"][0] for starts in (STRICT, LOOSE))
    assert strict > 0.9 and loose < 0.6


def test_return_hears_whether_the_notes_come_back():
    starts = [0.25, 0.75, 1.25, 2.25, 2.75, 3.25]  # three in each half
    again = measure(notes(starts, [20, 24, 28, 20, 24, 28]))["return"][0]
    away = measure(notes(starts, [12, 14, 16, 30, 34, 38]))["return"][0]
    assert again > 2.0 and away < 0.5


def test_span_is_the_deviation_of_the_line():
    assert measure(notes(STRICT, [20] * 7))["span"][0] == 0.0
    assert np.isclose(measure(notes(STRICT[:6], [18, 22] * 3))["span"][0], 2.0, atol=0.1)


def test_gaps_are_the_share_of_near_silence():
    held = notes([0.0], [20], length_s=4.0)
    held[0, 20] = -2.0
    assert measure(held)["gaps"][0] == 0.0
    held[0, 20, 50:100] = -9.0
    assert measure(held)["gaps"][0] == 0.25


def test_loudness_in_decibels():
    mel = notes(STRICT, [20] * 7)
    assert np.isclose(loudness_db(mel + np.log(2))[0] - loudness_db(mel)[0], 20 * np.log10(2), atol=1e-4)


@given(st.integers(0, 1000), st.integers(25, 220), st.sampled_from([-9.2, -5.0, 0.0]))
def test_always_finite_and_independent_of_the_level(seed, spectra, level):
    rng = np.random.default_rng(seed)
    mel = (level + rng.standard_normal((2, 64, spectra)) * rng.uniform(0, 2)).astype(np.float32)
    found = measure(mel)
    assert list(found) == list(MEASURES)
    assert all(np.isfinite(values).all() and values.shape == (2,) for values in found.values())
    assert (found["pulse"] >= 0).all() and (found["pulse"] <= 1).all()
    assert (found["return"] >= 0).all() and (found["return"] <= 3.0 + 1e-9).all()


def test_silence_has_measures_too():
    found = measure(np.full((1, 64, 100), -9.21, np.float32))
    assert all(np.isfinite(values).all() for values in found.values())
