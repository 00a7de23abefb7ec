"""What can be counted in a clip without any model: the measures that a simulated listener's taste is about.

All of them read the log-mel spectra of the sound, in units that do not depend on how long the clip is.
"""

from __future__ import annotations

import numpy as np

from codec.log_mel import SPECTRA_PER_S
from evaluation.signal_measures import onset_density, spectrum_features

MEASURES = ("liveliness", "brightness", "pulse", "return", "span", "gaps")
TUNE_BANDS = slice(10, 46)  # some 330 Hz to 3.6 kHz: where the tunes' strongest partials lie
GAP_NATS = 2.5  # a spectrum so far below the clip's loud ones counts as a gap: some 22 dB
HEARD_NATS = 3.0  # partials so far below the tune's loudest, some 26 dB, are not part of it
ALIKE = np.tanh(3.0)  # halves more alike than this, cosine .995, count as equal


def measure(log_mel: np.ndarray) -> dict[str, np.ndarray]:
    """log_mel [B, 64, F], F at least 25 -> MEASURES, each [B] float64.

    liveliness  ln(note onsets a second + 0.5)
    brightness  ln of the spectral centroid in Hz, weighted by loudness
    pulse       highest autocorrelation of the onsets at 0.16 to 1.2 s: 1 for a strict beat, 0 for none
    return      artanh of the cosine of the tune's mean spectra in the first and the second half, at most 3: does it
                come back to its notes
    span        standard deviation over time of the strongest band among the tune's, in bands
    gaps        share of time in near silence
    """
    mel = np.asarray(log_mel, np.float64)
    level = np.log(np.exp(mel).sum(1))  # [B, F]
    loud = np.quantile(level, 0.9, axis=1)[:, None]  # [B, 1]
    top = np.quantile(mel[:, TUNE_BANDS].max(1), 0.9, axis=1)[:, None, None]
    tune = np.maximum(mel[:, TUNE_BANDS] - top + HEARD_NATS, 0.0)  # [B, bands, F], nats above hearing
    found = {
        "liveliness": np.log(onset_density(mel) + 0.5),
        "brightness": spectrum_features(mel)[:, 0],
        "pulse": _pulse(mel),
        "return": _return(tune),
        "span": _span(tune),
        "gaps": (level < loud - GAP_NATS).mean(1),
    }
    return {name: found[name] for name in MEASURES}


def loudness_db(log_mel: np.ndarray) -> np.ndarray:
    """Root-mean-square level of the mel magnitudes in dB. [B, 64, F] -> [B]."""
    power = np.exp(2.0 * np.asarray(log_mel, np.float64)).sum(1).mean(1)
    return 10.0 * np.log10(power.clip(1e-12))


def _pulse(mel: np.ndarray) -> np.ndarray:
    """Unbiased autocorrelation of the onset strength, the highest at lags from 0.16 s to a third of the clip, at most
    1.2 s."""
    tune = mel[:, TUNE_BANDS]
    strength = np.maximum(tune[..., 2:] - tune[..., :-2], 0.0).mean(1)  # [B, F - 2]
    away = strength - strength.mean(1, keepdims=True)
    count = away.shape[1]
    spectrum = np.fft.rfft(away, 2 * count)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, 2 * count)[:, :count]
    unbiased = correlation * (count / (count - np.arange(count)))
    lags = slice(round(0.16 * SPECTRA_PER_S), max(round(0.16 * SPECTRA_PER_S) + 1, min(60, count // 3)))
    return (unbiased[:, lags].max(1) / correlation[:, 0].clip(1e-9)).clip(0.0, 1.0)


def _return(tune: np.ndarray) -> np.ndarray:
    half = tune.shape[-1] // 2
    first, second = tune[..., :half].mean(-1), tune[..., half:].mean(-1)
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.arctanh(((first * second).sum(1) / size.clip(1e-9)).clip(0.0, ALIKE))


def _span(tune: np.ndarray) -> np.ndarray:
    """Deviation of the strongest band over the spectra in which the tune sounds; 0 where it sounds in none or one."""
    top, sounds = tune.argmax(1), tune.max(1) > HEARD_NATS / 3  # [B, F]
    count = sounds.sum(1).clip(1)
    mean = (top * sounds).sum(1) / count
    return np.sqrt((((top - mean[:, None]) ** 2) * sounds).sum(1) / count)
