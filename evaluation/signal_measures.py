"""Judges without learning: what can be read from the signal, set against a few averages over real clips.

`tempo`: note onsets a second against the tempo that the prompt names. `spectrum`: brightness, flatness, movement and
dynamics against those of real clips of the named instrument. Their references come from the judge split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import UserError
from codec.log_mel import MELS, SPECTRA_PER_S
from rewards.checkpoint import read_config, write_config
from rewards.port import ClipBatch, ClipView
from rewards.prompt_attributes import named_attributes
from world.attributes import ATTRIBUTES, Attributes

ANY = "any"
MELODY_BANDS = slice(8, 40)  # some 250 Hz to 2.6 kHz: where tunes lie, above a bass and below most of a drum's noise
ONSET_RISE = 0.06  # nats, averaged over those bands, above the surroundings
CENTRES_HZ = 700.0 * (10.0 ** (np.linspace(np.log10(1 + 30 / 700), np.log10(1 + 8000 / 700), MELS + 2)[1:-1]) - 1.0)


def onset_density(log_mel: np.ndarray, rise: float = ONSET_RISE) -> np.ndarray:
    """Note onsets a second. log_mel [B, 64, F] -> [B].

    An onset is a local maximum (over 100 ms) of the mean rise of the melody's bands over 40 ms, `rise` above the mean
    of the surrounding 0.4 s. Bands and threshold were chosen on the judge split.
    """
    mel = np.maximum(log_mel[:, MELODY_BANDS].astype(np.float64), -8.5)
    flux = np.maximum(mel[..., 2:] - mel[..., :-2], 0.0).mean(1)  # [B, F - 2]
    around = _running(flux, 10, np.mean)
    rising = np.diff(flux, axis=1, prepend=-1.0) > 0  # of two equal neighbours only the first is an onset
    peak = rising & (flux >= _running(flux, 2, np.max)) & (flux > around + rise)
    return peak.sum(1) / (log_mel.shape[-1] / SPECTRA_PER_S)


def spectrum_features(log_mel: np.ndarray) -> np.ndarray:
    """[B, 64, F] -> [B, 4]: log centroid (ln Hz), log flatness, movement (nats a spectrum), dynamics (sd in nats)."""
    mel = np.exp(log_mel.astype(np.float64))
    loud = mel.sum(1)  # [B, F]
    weight = loud / loud.sum(1, keepdims=True)
    centroid = (mel * CENTRES_HZ[None, :, None]).sum(1) / loud
    flatness = np.exp(log_mel.astype(np.float64).mean(1)) / mel.mean(1)
    movement = np.abs(np.diff(log_mel.astype(np.float64), axis=-1)).mean((1, 2))
    dynamics = np.log(loud).std(1)
    columns = [(np.log(centroid) * weight).sum(1), (np.log(flatness) * weight).sum(1), movement, dynamics]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class TempoReference:
    """ln(onsets a second + 0.5) of real clips by drums ("any" among them) and tempo, and its common deviation."""

    means: dict[str, dict[str, float]]
    deviation: float

    @classmethod
    def measure(cls, log_mel: np.ndarray, attributes: Sequence[Attributes]) -> TempoReference:
        density = _log_density(log_mel)
        tempo, drums = (np.array([a[name] for a in attributes]) for name in ("tempo", "drums"))
        residual = density.copy()
        means: dict[str, dict[str, float]] = {}
        for beat in (ANY, *ATTRIBUTES["drums"]):
            means[beat] = {}
            for value in ATTRIBUTES["tempo"]:
                rows = (tempo == value) & ((drums == beat) | (beat == ANY))
                means[beat][value] = float(density[rows].mean())
                if beat != ANY:
                    residual[rows] = density[rows] - means[beat][value]
        return cls(means, float(residual.std()))


class TempoJudge:
    """score = probability of the named tempo given the onset density, equal priors; NaN where no tempo is named."""

    kind = "tempo"
    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(self, reference: TempoReference, version: str = "", shift: float = 0.0, scale: float = 1.0) -> None:
        self.reference, self.version, self.shift, self.scale, self.name = reference, version, shift, scale, self.kind

    @classmethod
    def load(cls, directory: str | Path) -> TempoJudge:
        config, version = _read(directory, cls.kind)
        return cls(TempoReference(**config["reference"]), version, config["shift"], config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None, "the tempo judge reads log_mel"
        density = _log_density(clips.log_mel)
        return np.array([self._chance(p, d) for p, d in zip(clips.prompts, density, strict=True)], np.float32)

    def _chance(self, prompt: str, log_density: float) -> float:
        named = named_attributes(prompt)
        if "tempo" not in named or not np.isfinite(log_density):
            return float("nan")
        means = self.reference.means[named.get("drums", ANY)]
        distances = {value: ((log_density - mean) / self.reference.deviation) ** 2 for value, mean in means.items()}
        least = min(distances.values())
        weights = {value: np.exp(-0.5 * (d - least)) for value, d in distances.items()}
        return float(weights[named["tempo"]] / sum(weights.values()))


@dataclass(frozen=True)
class SpectrumReference:
    """Means of `spectrum_features` over real clips by lead ("any" among them), and their inverse covariance."""

    means: dict[str, list[float]]
    precision: dict[str, list[list[float]]]  # "any" about the grand mean, "lead" within the leads

    @classmethod
    def measure(cls, log_mel: np.ndarray, attributes: Sequence[Attributes]) -> SpectrumReference:
        features = spectrum_features(log_mel)
        lead = np.array([a["lead"] for a in attributes])
        means = {ANY: features.mean(0)} | {value: features[lead == value].mean(0) for value in ATTRIBUTES["lead"]}
        within = features - np.stack([means[value] for value in lead])
        precision = {ANY: np.linalg.inv(np.cov(features.T)), "lead": np.linalg.inv(np.cov(within.T))}
        return cls({k: v.tolist() for k, v in means.items()}, {k: v.tolist() for k, v in precision.items()})


class SpectrumJudge:
    """score = - root mean squared deviation from real clips of the named lead, in their standard deviations."""

    kind = "spectrum"
    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(self, reference: SpectrumReference, version: str = "", shift: float = 0.0, scale: float = 1.0) -> None:
        self.reference, self.version, self.shift, self.scale, self.name = reference, version, shift, scale, self.kind

    @classmethod
    def load(cls, directory: str | Path) -> SpectrumJudge:
        config, version = _read(directory, cls.kind)
        return cls(SpectrumReference(**config["reference"]), version, config["shift"], config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        assert clips.log_mel is not None, "the spectrum judge reads log_mel"
        features = spectrum_features(clips.log_mel)
        leads = [named_attributes(prompt).get("lead", ANY) for prompt in clips.prompts]
        away = features - np.array([self.reference.means[lead] for lead in leads])
        precision = np.array([self.reference.precision[ANY if lead == ANY else "lead"] for lead in leads])
        squared = np.einsum("bi,bij,bj->b", away, precision, away) / features.shape[1]
        return -np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)


def save_measure(directory: str | Path, kind: str, reference: TempoReference | SpectrumReference) -> None:
    Path(directory).mkdir(parents=True, exist_ok=True)
    write_config(directory, {"kind": kind, "reference": asdict(reference), "shift": 0.0, "scale": 1.0})


def _read(directory: str | Path, kind: str) -> tuple[dict[str, Any], str]:
    config = read_config(directory)
    if config.get("kind") != kind or "reference" not in config:
        raise UserError(f"{directory}: got kind {config.get('kind')!r}, allowed {kind!r} with its reference")
    return config, hashlib.sha256(json.dumps(config["reference"], sort_keys=True).encode()).hexdigest()[:12]


def _log_density(log_mel: np.ndarray) -> np.ndarray:
    density = np.log(onset_density(log_mel) + 0.5)
    return np.where(np.isfinite(log_mel).all((1, 2)), density, np.nan)


def _running(values: np.ndarray, reach: int, reduce: Any) -> np.ndarray:
    """`reduce` over a centred window of 2 * reach + 1, edges repeated. [B, F] -> [B, F]."""
    padded = np.pad(values, ((0, 0), (reach, reach)), mode="edge")
    return reduce(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1), axis=-1)
